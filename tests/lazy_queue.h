#pragma once
#include <cstring>
#include <functional>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "kernels/queue.h"

namespace tessera {

/// A device that works as late as it may: what is enqueued runs when somebody waits for it, and what it waits for runs before. So whatever is
/// read without having been waited for is still what it was. Its clock counts the bytes of its copies and fills, as seconds.
class LazyQueue : public Queue {
 public:
  uint64_t mark() override {
    const std::lock_guard lock(world());
    entries_.push_back([] {});
    marks_.push_back(entries_.size());
    return marks_.size();
  }
  double seconds_between(uint64_t from, uint64_t to) override {
    const std::lock_guard lock(world());
    invariant(kept_ <= from && marks_[to - 1] <= done_, "a mark that is not kept, or not reached");
    return times_[marks_[to - 1] - 1] - times_[marks_[from - 1] - 1];
  }
  void keep_from(uint64_t mark) override { kept_ = mark; }
  void copy(void* to, const void* from, int64_t bytes) override {
    enqueue([=, this] { std::memcpy(to, from, static_cast<size_t>(bytes)), now_ += static_cast<double>(bytes); });
  }
  void fill(void* to, unsigned char value, int64_t bytes) override {
    enqueue([=, this] { std::memset(to, value, static_cast<size_t>(bytes)), now_ += static_cast<double>(bytes); });
  }
  void* native() override { return this; }

  bool advance(uint64_t mark) override {
    const std::lock_guard lock(world());
    return marks_[mark - 1] <= done_;
  }
  void sleep(uint64_t mark) override {
    const std::lock_guard lock(world());
    run_to(mark);
    sleeps++;
  }
  void join(uint64_t mark, Queue& queue) override {
    auto& other = static_cast<LazyQueue&>(queue);
    if (&other != this) other.enqueue([this, mark, &other] { run_to(mark), other.now_ = std::max(now_, other.now_); });
  }
  int sleeps = 0;

 private:
  /// One lock for all queues, as they run each other.
  static std::recursive_mutex& world() {
    static std::recursive_mutex mutex;
    return mutex;
  }
  void enqueue(std::function<void()> entry) {
    const std::lock_guard lock(world());
    entries_.push_back(std::move(entry));
  }
  void run_to(uint64_t mark) {
    invariant(mark >= 1 && mark <= marks_.size(), "a mark that nobody laid");
    for (; done_ < marks_[mark - 1]; done_++) {
      entries_[done_]();
      times_.push_back(now_);
    }
  }

  std::vector<std::function<void()>> entries_;
  std::vector<size_t> marks_;  // entries up to and with each mark
  std::vector<double> times_;  // at the end of each entry that ran
  size_t done_ = 0;
  uint64_t kept_ = 0;
  double now_ = 0;
};

}  // namespace tessera
