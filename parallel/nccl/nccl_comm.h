#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "parallel/nccl/nccl_library.h"
#include "parallel/nccl_module.h"

namespace tessera::nccl {

/// One ncclComm: used by its rank's thread, aborted by any. NCCL's calls do not wait for other ranks, so the lock is never held for long.
class Link {
 public:
  /// `who` stands in errors: "group dp on rank 3".
  explicit Link(std::string who) : who_(std::move(who)) {}
  ~Link();
  Link(const Link&) = delete;

  void open(const UniqueId& id, int rank, int size, double timeout_seconds);
  /// Runs `calls(comm)` as one group of NCCL's, whose parts start together, and returns when all of it is on its stream.
  template <class Calls>
  void group(const char* what, const Calls& calls) {
    {
      const std::lock_guard lock(mutex_);
      expect_usable(what);
      check(library().group_start(), text(what));
      try {
        calls(comm_);
      } catch (...) {
        (void)library().group_end();
        throw;
      }
      check(library().group_end(), text(what));
    }
    settle(what, timeout_seconds_);
  }
  /// After all of its work: the other members may still need this one's memory.
  void close();
  void abort(const std::string& message) noexcept;

 private:
  std::string text(const char* what) const { return std::string(what) + " of " + who_; }
  void expect_usable(const char* what) const;
  /// Waits until NCCL has done what a call began.
  void settle(const char* what, double timeout_seconds);

  std::string who_;
  std::mutex mutex_;
  ncclComm* comm_ = nullptr;
  bool aborted_ = false;
  std::string message_;
  double timeout_seconds_ = 0;
};

}  // namespace tessera::nccl
