#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "parallel/comm.h"

namespace tessera {

/// What follows from another rank's error: never the one to show.
struct ReleasedError : CommError {
  using CommError::CommError;
};

/// The control plane of all ranks: slow, safe, separate from the data plane. Every rank makes the same calls in the same order.
/// Waits block and do not spin. After abort() by any rank, every call and every wait of the data plane throws CommError.
class HostGroup {
 public:
  virtual ~HostGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// The bytes of rank 0, on every rank.
  virtual std::string broadcast(std::string bytes) = 0;
  /// Every rank's bytes by rank, on every rank.
  virtual std::vector<std::string> gather(std::string bytes) = 0;
  /// CommError naming the missing ranks after `timeout_seconds`.
  virtual void barrier(double timeout_seconds = 600) = 0;
  /// Releases the other ranks: their next or current wait throws CommError with this message; the first message stays. Never waits.
  virtual void abort(const std::string& message) noexcept = 0;
  /// What abort() by any rank also calls, once, on that rank's thread; an empty function ends this. At once if it has happened already.
  virtual void set_on_abort(std::function<void(const std::string&)> /*release*/) {}
  /// The communicator of one group of world ranks that holds this rank; collective over all ranks, each of which names its own group, perhaps
  /// of itself alone. `name` distinguishes groups of the same ranks ("dp", "tied") and stands in errors. It must end before this object
  /// does, on the thread that made it.
  virtual std::unique_ptr<Comm> make_comm(const std::vector<int>& ranks, const std::string& name, WaitReason reason) = 0;
};

std::unique_ptr<HostGroup> make_self_group();
/// Pretends to be `rank` of `size`; gather returns the own bytes for every rank, broadcast the own bytes.
std::unique_ptr<HostGroup> make_null_group(int rank, int size);

/// Runs `body(group)` on `ranks` threads of this process and waits for all. When one throws, the others are released; the first error
/// (the one that was not caused by another's abort) is rethrown after all threads have ended. A wait of the data plane that lasts
/// `timeout_seconds` throws CommError naming the ranks that are missing; the time in which the whole process is stopped (Ctrl-Z) does not
/// count. A gather or a broadcast waits as long as it takes: a rank may be saving to a slow disk. Waiting for a rank whose body has ended
/// throws at once. ConfigError when the system refuses that many threads.
void run_thread_ranks(int ranks, const std::function<void(HostGroup&)>& body, double timeout_seconds = 600);

}  // namespace tessera
