#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace tessera {

/// SIGINT, SIGTERM and SIGHUP (unless ignored: nohup) of a training process. The first says at once after which step the run stops and asks
/// for it; a second SIGINT or SIGTERM ends the process without saving. Create it before any other thread: it blocks the signals in the
/// creating thread, whose children inherit that, and waits for them in a thread of its own. From then on the process ignores SIGPIPE: a
/// reader of its messages that goes away does not end it.
class SignalWatch {
 public:
  /// `announce(step)`: called at the first signal with the number (from 1) of the last step that will run. When the run has not begun, nobody
  /// knows that step: it is called without one, and with it from `begin`. Called under the lock of this object, which it must not use.
  explicit SignalWatch(std::function<void(std::optional<int64_t>)> announce);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;

  /// The run goes on behind `finished` of its `steps` steps.
  void begin(int64_t finished, int64_t steps);
  /// The stop vote of step `step` (from 0), which is about to start. A vote in step s is read, and obeyed, at the start of step s + 2.
  bool vote(int64_t step);

 private:
  void watch();
  /// The last step that runs when the step after the `started_` ones is the first to vote.
  std::optional<int64_t> last_step() const;

  std::function<void(std::optional<int64_t>)> announce_;
  std::mutex mutex_;
  std::optional<int64_t> started_;  // steps that have started; none before `begin`
  int64_t steps_ = 0;
  std::atomic<bool> requested_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace tessera
