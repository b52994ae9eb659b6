#include "engine/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace tessera {

RunLock::RunLock(std::filesystem::path run_dir) : run_dir_(std::move(run_dir)) {
  std::error_code failed;
  made_directory_ = std::filesystem::create_directories(run_dir_, failed);
  if (failed) throw DataError({fmt::format("{} cannot be made: {}", run_dir_.string(), failed.message()), run_dir_.string(), {}, {}});
  const std::string path = (run_dir_ / file_name).string();
  while (true) {
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file_ < 0 || ::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      if (file_ >= 0) ::close(file_);
      if (reason != EWOULDBLOCK) throw DataError({fmt::format("cannot lock {}: {}", path, std::strerror(reason)), path, {}, {}});
      throw ConfigError(
          {fmt::format("another process is training in {}", run_dir_.string()), path, "another --run-dir, or wait for its end", {}});
    }
    struct stat status {};
    if (::fstat(file_, &status) == 0 && status.st_nlink > 0) return;
    ::close(file_);  // its last owner removed it between our open and our lock: nobody else would see the lock
  }
}

RunLock::~RunLock() {
  ::unlink((run_dir_ / file_name).c_str());  // while it is still locked
  ::close(file_);
  if (made_directory_) ::rmdir(run_dir_.c_str());  // fails when a run lies in it
}

}  // namespace tessera
