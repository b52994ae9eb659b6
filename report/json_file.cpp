#include "report/json_file.h"

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

}  // namespace tessera
