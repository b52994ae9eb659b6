#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/op_info.h"
#include "kernels/queue.h"

namespace tessera {

/// Seconds and counts that a stream gathered, by kind and phase. Plain data, reset by the reader.
struct Profile {
  std::array<std::array<double, phases>, op_kinds> op_seconds{};
  std::array<std::array<int64_t, phases>, op_kinds> op_calls{};
  std::array<std::array<double, phases>, op_kinds> op_flops{};
  std::array<double, wait_reasons> wait_seconds{};
  std::array<double, wait_reasons> idle_seconds{};  // of those: asleep, because nothing could move before a peer did its part
  double seconds_of(Phase phase) const;
};

/// An ordered queue of ops on one device. On cpu ops run inline, so the queue is always empty and order is program order. Where there is a
/// Queue, ops, copies and waits are enqueued and the host goes on; times are then the device's, known when it has come that far.
class Stream {
 public:
  Stream(const char* name, bool timed, std::unique_ptr<Queue> queue = nullptr) : name_(name), timed_(timed), queue_(std::move(queue)) {}
  Stream(const Stream&) = delete;

  /// The point after everything enqueued so far.
  Event record();
  /// What is enqueued after this runs after `event`. The time it costs goes to `reason`.
  void wait(Event event, WaitReason reason);
  /// The host waits until everything enqueued so far is done.
  void finish();

  /// Where the coming ops stand: phase, index of the action in the Program, unit.
  void set_phase(Phase phase) { phase_ = phase; }
  Phase phase() const { return phase_; }
  void set_place(int32_t action, int32_t unit) { action_ = action, unit_ = unit; }
  void set_unit(int32_t unit) { unit_ = unit; }

  const char* name() const { return name_; }
  /// Complete: the host waits for what is enqueued. Outside a step only.
  Profile& profile();
  /// Records every op, wait and collective into `trace` until called with nullptr. The host waits for what is enqueued.
  void set_trace(Trace* trace);
  /// `pending` is advanced after each op, because nobody else moves it.
  void add_progress(Pending* pending) { progress_.push_back(pending); }
  void remove_progress(Pending* pending);
  /// Where communicators enqueue what this stream's ops need not wait for; itself unless told otherwise.
  Stream& transfers() { return transfers_ ? *transfers_ : *this; }
  void set_transfers(Stream& transfers) { transfers_ = &transfers; }

  /// For bodies of ops, Device and communicators only.
  Queue* queue() { return queue_.get(); }
  void copy_bytes(void* to, const void* from, int64_t bytes);
  void fill_bytes(void* to, unsigned char value, int64_t bytes);

  /// For run_op and communicators only.
  void note(OpInfo info);
  /// record() without a line in the trace.
  Event point();
  void make_progress();
  bool timed() const { return timed_; }
  /// A point in time: of the host's clock, or a mark where ops are enqueued.
  struct Instant {
    double seconds = 0;
    uint64_t mark = 0;
  };
  Instant now();
  void add_op_seconds(OpKind kind, Instant start);  // of the op noted last, until now
  /// The host's own work for which ops had to wait: where they run inline, all of it. A queue's waits are measured as such.
  void add_host_seconds(WaitReason reason, double seconds);

 private:
  /// Between two marks that the device may not have reached yet.
  struct Interval {
    uint64_t from, to;
    double* sum;
    int64_t traced;  // the trace's line that also takes the seconds; -1: none
  };
  void wait_on_host(Event event, WaitReason reason);
  void add_interval(Instant start, double& sum, int64_t traced);
  void collect();

  const char* name_;
  bool timed_;  // false on null: nothing takes time there
  Phase phase_ = Phase::Setup;
  int32_t action_ = -1, unit_ = -1;
  Trace* trace_ = nullptr;
  Profile profile_;
  std::vector<Pending*> progress_;
  Stream* transfers_ = nullptr;
  std::unique_ptr<Queue> queue_;
  uint64_t last_mark_ = 0;
  std::deque<Interval> intervals_;
};

/// Seconds of a steady clock.
double steady_seconds();

/// What every public op ends with: traces `info`, runs and times `body`, then lets pending collectives move, outside the op's time.
template <class Body>
void run_op(Stream& stream, const OpInfo& info, const Body& body) {
  stream.note(info);
  const Stream::Instant start = stream.now();
  body();
  stream.add_op_seconds(info.kind, start);
  stream.make_progress();
}

}  // namespace tessera
