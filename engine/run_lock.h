#pragma once
#include <filesystem>

namespace tessera {

/// One process at a time works on a run directory: a lock on DIR/.lock, which the system gives back when the process ends, however it ends.
class RunLock {
 public:
  static constexpr const char* file_name = ".lock";

  /// Makes the directory when there is none. ConfigError naming it when another process holds it; DataError when it cannot be made or
  /// locked.
  explicit RunLock(std::filesystem::path run_dir);
  /// Removes the lock's file, and the directory when this lock made it and nothing was put in.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::filesystem::path run_dir_;
  bool made_directory_ = false;
  int file_ = -1;
};

}  // namespace tessera
