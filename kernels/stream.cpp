#include "kernels/stream.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace tessera {

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Profile::seconds_of(Phase phase) const {
  double sum = 0;
  for (const auto& by_phase : op_seconds) sum += by_phase[static_cast<int>(phase)];
  return sum;
}

Event Stream::record() {
  note({.kind = OpKind::Record, .shape = {}, .launches = 0});
  return point();
}

Event Stream::point() {
  if (!queue_) return {};
  last_mark_ = queue_->mark();
  if (intervals_.empty()) queue_->keep_from(last_mark_);
  return {queue_.get(), last_mark_};
}

void Stream::wait(Event event, WaitReason reason) {
  note({.kind = OpKind::Wait, .shape = {{static_cast<int64_t>(reason)}, DType::f32}, .launches = 0});
  if (!event.pending) return;
  if (!queue_) return wait_on_host(event, reason);
  const Instant start = now();
  if (event.pending->needs_host()) {
    while (!event.pending->advance(event.ticket)) event.pending->sleep(event.ticket);
  }
  event.pending->join(event.ticket, *queue_);
  if (timed_) add_interval(start, profile_.wait_seconds[static_cast<int>(reason)], -1);
}

void Stream::wait_on_host(Event event, WaitReason reason) {
  const double start = timed_ ? steady_seconds() : 0;
  double idle = 0;
  while (!event.pending->advance(event.ticket)) {
    const double asleep = timed_ ? steady_seconds() : 0;
    event.pending->sleep(event.ticket);
    if (timed_) idle += steady_seconds() - asleep;
  }
  if (!timed_) return;
  profile_.wait_seconds[static_cast<int>(reason)] += steady_seconds() - start;
  profile_.idle_seconds[static_cast<int>(reason)] += idle;
}

void Stream::finish() {
  if (!queue_) return;
  const uint64_t mark = last_mark_ = queue_->mark();
  while (!queue_->advance(mark)) queue_->sleep(mark);
  collect();
}

Profile& Stream::profile() {
  finish();
  return profile_;
}

void Stream::set_trace(Trace* trace) {
  finish();  // seconds still to come belong to the old one
  trace_ = trace;
}

void Stream::copy_bytes(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  if (queue_) return queue_->copy(to, from, bytes);
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void Stream::fill_bytes(void* to, unsigned char value, int64_t bytes) {
  if (bytes == 0) return;
  if (queue_) return queue_->fill(to, value, bytes);
  std::memset(to, value, static_cast<size_t>(bytes));
}

void Stream::remove_progress(Pending* pending) { std::erase(progress_, pending); }

void Stream::note(OpInfo info) {
  info.phase = phase_;
  profile_.op_calls[static_cast<int>(info.kind)][static_cast<int>(phase_)]++;
  profile_.op_flops[static_cast<int>(info.kind)][static_cast<int>(phase_)] += info.flops;
  if (trace_) trace_->push_back({info, name_, action_, unit_});
}

Stream::Instant Stream::now() {
  if (!timed_) return {};
  if (!queue_) return {.seconds = steady_seconds()};
  // A queue that is busy starts the next op at the last mark. One that has run empty stood still until now, which is no op's time.
  if (last_mark_ == 0 || queue_->advance(last_mark_)) last_mark_ = queue_->mark();
  return {.mark = last_mark_};
}

void Stream::add_op_seconds(OpKind kind, Instant start) {
  if (!timed_) return;
  double& sum = profile_.op_seconds[static_cast<int>(kind)][static_cast<int>(phase_)];
  if (queue_) return add_interval(start, sum, trace_ ? static_cast<int64_t>(trace_->size()) - 1 : -1);
  const double seconds = steady_seconds() - start.seconds;
  sum += seconds;
  if (trace_) trace_->back().seconds = seconds;
}

void Stream::add_host_seconds(WaitReason reason, double seconds) {
  if (timed_ && !queue_) profile_.wait_seconds[static_cast<int>(reason)] += seconds;
}

void Stream::add_interval(Instant start, double& sum, int64_t traced) {
  last_mark_ = queue_->mark();
  intervals_.push_back({start.mark, last_mark_, &sum, traced});
  constexpr size_t often_enough = 64;  // asking the device costs about a microsecond
  if (intervals_.size() % often_enough == 0) collect();
}

/// Adds up what the device has reached.
void Stream::collect() {
  while (!intervals_.empty() && queue_->advance(intervals_.front().to)) {
    const Interval& interval = intervals_.front();
    const double seconds = queue_->seconds_between(interval.from, interval.to);
    *interval.sum += seconds;
    if (interval.traced >= 0) (*trace_)[static_cast<size_t>(interval.traced)].seconds = seconds;
    intervals_.pop_front();
  }
  queue_->keep_from(intervals_.empty() ? last_mark_ : intervals_.front().from);
}

void Stream::make_progress() {
  for (Pending* pending : progress_) pending->advance(0);
}

}  // namespace tessera
