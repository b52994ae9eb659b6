#include "report/json_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace tessera {

static DataError file_error(const char* what, const std::filesystem::path& path) {
  const std::string reason = errno ? std::string(": ") + std::strerror(errno) : "";
  return DataError({what + reason, path.string(), {}, {}});
}

std::string read_text_file(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) throw file_error("cannot read the file", path);
  return text;
}

Json read_json_file(const std::filesystem::path& path) {
  try {
    return Json::parse(read_text_file(path));
  } catch (const Json::parse_error& error) {
    throw DataError({"the file is not valid JSON (byte " + std::to_string(error.byte) + ")", path.string(), {}, {}});
  }
}

static bool write_and_sync(int descriptor, const std::string& text) {
  for (size_t written = 0; written < text.size();) {
    const ssize_t count = ::write(descriptor, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    written += static_cast<size_t>(count);
  }
  return ::fsync(descriptor) == 0;
}

void write_text_atomically(const std::filesystem::path& path, const std::string& text) {
  const std::string temporary = path.string() + ".tmp";
  errno = 0;
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) throw file_error("cannot write the file", path);
  bool good = write_and_sync(descriptor, text);
  good = ::close(descriptor) == 0 && good;
  good = good && ::rename(temporary.c_str(), path.c_str()) == 0;
  if (good) return;
  const DataError error = file_error("cannot write the file", path);
  ::unlink(temporary.c_str());
  throw error;
}

}  // namespace tessera
