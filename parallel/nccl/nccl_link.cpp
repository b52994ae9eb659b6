#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/units.h"
#include "parallel/host_group.h"
#include "parallel/nccl/nccl_comm.h"

namespace tessera::nccl {

Link::~Link() {
  const std::lock_guard lock(mutex_);
  if (comm_) (void)library().abort(comm_);  // on the way out of an error: the other members may never come
}

void Link::open(const UniqueId& id, int rank, int size, double timeout_seconds) {
  timeout_seconds_ = timeout_seconds;
  {
    const std::lock_guard lock(mutex_);
    if (!aborted_) {
      Config config;
      check(library().init_rank(&comm_, size, id, rank, &config), text("making"));
    }
  }
  settle("making", timeout_seconds);
}

void Link::expect_usable(const char* what) const {
  if (aborted_) throw ReleasedError({.what = text(what) + " was released: " + message_});
  Result error = Result::Success;
  check(library().get_async_error(comm_, &error), text(what));
  check(error, text(what));
}

void Link::settle(const char* what, double timeout_seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int turns_without_sleep = 100;  // most calls have ended by then, and a sleep takes longer than they do
  const Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_seconds));
  for (int turn = 0;; turn++) {
    {
      const std::lock_guard lock(mutex_);
      expect_usable(what);
      Result state = Result::Success;
      check(library().get_async_error(comm_, &state), text(what));
      if (state == Result::Success) return;
    }
    if (Clock::now() > end) throw CommError({.what = text(what) + " waited " + format_seconds(timeout_seconds) + " for its other members"});
    if (turn < turns_without_sleep) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
}

void Link::close() {
  {
    const std::lock_guard lock(mutex_);
    if (aborted_) return;
    check(library().finalize(comm_), text("ending"));
  }
  settle("ending", timeout_seconds_);
  const std::lock_guard lock(mutex_);
  if (comm_) (void)library().destroy(comm_);
  comm_ = nullptr;
}

void Link::abort(const std::string& message) noexcept {
  const std::lock_guard lock(mutex_);
  if (aborted_) return;
  aborted_ = true;
  try {
    message_ = message;
  } catch (const std::bad_alloc&) {  // released without a reason is better than not released
  }
  if (comm_) (void)library().abort(comm_);
  comm_ = nullptr;
}

}  // namespace tessera::nccl
