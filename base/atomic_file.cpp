#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace tessera {

constexpr size_t buffer_bytes = 1 << 20;

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), partial_path_(path_ + ".partial") {
  file_ = ::open(partial_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file_ < 0) fail("cannot create");
  buffer_.reserve(buffer_bytes);
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0) ::close(file_);
  if (!published_) ::unlink(partial_path_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  bytes_ += static_cast<int64_t>(bytes.size());
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), buffer_bytes - buffer_.size());
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
    bytes = bytes.subspan(n);
    if (buffer_.size() == buffer_bytes) flush();
  }
}

void AtomicFile::finish() {
  flush();
  if (::fsync(file_) != 0) fail("cannot write");
  const int closed = ::close(file_);
  file_ = -1;
  if (closed != 0) fail("cannot write");
}

void AtomicFile::publish() {
  invariant(file_ < 0 && !published_, "a file is published once, after finish()");
  if (::rename(partial_path_.c_str(), path_.c_str()) != 0) fail("cannot rename");
  published_ = true;
  sync_folder(std::filesystem::path(path_).parent_path());
}

void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path.string());
  file.write(text);
  file.finish();
  file.publish();
}

void sync_folder(const std::filesystem::path& folder) {
  const int handle = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;  // the files stand; only their survival of a power cut is less certain
  ::fsync(handle);
  ::close(handle);
}

void AtomicFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(file_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot write");
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void AtomicFile::fail(const char* doing) const {
  const int reason = errno;
  throw DataError({std::string(doing) + " " + path_ + ": " + std::strerror(reason), partial_path_,
                   "a writable folder with enough free space", "a file that stood under this name before is unchanged"});
}

}  // namespace tessera
