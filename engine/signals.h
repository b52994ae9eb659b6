#pragma once
#include <atomic>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>

namespace tessera {

/// SIGINT, SIGTERM and SIGHUP (unless ignored: nohup) of a training process. The first says at once after which step the run stops and asks
/// for it; a second SIGINT or SIGTERM ends the process without saving. Create it before any other thread: it blocks the signals in the
/// creating thread, whose children inherit that, and waits for them in a thread of its own. From then on the process ignores SIGPIPE: a
/// reader of its messages that goes away does not end it.
class SignalWatch {
 public:
  /// `announce(step)`: called once, on the watching thread, with the number (from 1) of the last step that will run.
  explicit SignalWatch(std::function<void(int64_t)> announce);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;

  /// The stop vote of step `step` of `steps` (from 0), which is about to start. A vote in step s is read at the start of step s + 2.
  bool vote(int64_t step, int64_t steps);

 private:
  void watch();
  std::function<void(int64_t)> announce_;
  std::mutex mutex_;
  int64_t current_step_ = -1, steps_ = std::numeric_limits<int64_t>::max();
  std::atomic<bool> requested_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace tessera
