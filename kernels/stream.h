#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/op_info.h"

namespace tessera {

/// Work that does not finish at once: pending collectives of a communicator. Ticket k is the k-th piece of work given to it.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Moves whatever can move without waiting; true when `ticket` is finished. Throws CommError when a peer is gone.
  virtual bool advance(uint64_t ticket) = 0;
  /// Sleeps (never spins) until something may have changed. Throws CommError on abort or timeout.
  virtual void sleep(uint64_t ticket) = 0;
};

/// A point in a stream. The default one has already been reached: on the cpu device all ops run inline.
struct Event {
  Pending* pending = nullptr;
  uint64_t ticket = 0;
};

/// Seconds and counts that a stream gathered, by kind and phase. Plain data, reset by the reader.
struct Profile {
  std::array<std::array<double, phases>, op_kinds> op_seconds{};
  std::array<std::array<int64_t, phases>, op_kinds> op_calls{};
  std::array<std::array<double, phases>, op_kinds> op_flops{};
  std::array<double, wait_reasons> wait_seconds{};
  std::array<double, wait_reasons> idle_seconds{};  // of those: asleep, because nothing could move before a peer did its part
  double seconds_of(Phase phase) const;
};

/// An ordered queue of ops on one device. On cpu ops run inline, so the queue is always empty and order is program order.
class Stream {
 public:
  Stream(const char* name, bool timed) : name_(name), timed_(timed) {}
  Stream(const Stream&) = delete;

  /// The point after everything enqueued so far.
  Event record();
  /// What is enqueued after this runs after `event`. The time it costs goes to `reason`.
  void wait(Event event, WaitReason reason);

  /// Where the coming ops stand: phase, index of the action in the Program, unit.
  void set_phase(Phase phase) { phase_ = phase; }
  Phase phase() const { return phase_; }
  void set_place(int32_t action, int32_t unit) { action_ = action, unit_ = unit; }
  void set_unit(int32_t unit) { unit_ = unit; }

  const char* name() const { return name_; }
  Profile& profile() { return profile_; }
  /// Records every op, wait and collective into `trace` until called with nullptr.
  void set_trace(Trace* trace) { trace_ = trace; }
  /// `pending` is advanced after each op, because nobody else moves it.
  void add_progress(Pending* pending) { progress_.push_back(pending); }
  void remove_progress(Pending* pending);

  /// For run_op and communicators only.
  void note(OpInfo info);
  void add_op_seconds(OpKind kind, double seconds);  // of the op noted last
  void make_progress();
  bool timed() const { return timed_; }

 private:
  const char* name_;
  bool timed_;  // false on null: nothing takes time there
  Phase phase_ = Phase::Setup;
  int32_t action_ = -1, unit_ = -1;
  Trace* trace_ = nullptr;
  Profile profile_;
  std::vector<Pending*> progress_;
};

/// Seconds of a steady clock.
double steady_seconds();

/// What every public op ends with: traces `info`, runs and times `body`, then lets pending collectives move, outside the op's time.
template <class Body>
void run_op(Stream& stream, const OpInfo& info, const Body& body) {
  stream.note(info);
  const double start = stream.timed() ? steady_seconds() : 0;
  body();
  if (stream.timed()) stream.add_op_seconds(info.kind, steady_seconds() - start);
  stream.make_progress();
}

}  // namespace tessera
