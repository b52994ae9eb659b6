#include "kernels/stream.h"

#include <algorithm>
#include <chrono>

namespace tessera {

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Profile::seconds_of(Phase phase) const {
  double sum = 0;
  for (const auto& by_phase : op_seconds) sum += by_phase[static_cast<int>(phase)];
  return sum;
}

Event Stream::record() {
  note({.kind = OpKind::Record, .shape = {}, .launches = 0});
  return {};
}

void Stream::wait(Event event, WaitReason reason) {
  note({.kind = OpKind::Wait, .shape = {{static_cast<int64_t>(reason)}, DType::f32}, .launches = 0});
  if (!event.pending) return;
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

void Stream::remove_progress(Pending* pending) { std::erase(progress_, pending); }

void Stream::note(OpInfo info) {
  info.phase = phase_;
  profile_.op_calls[static_cast<int>(info.kind)][static_cast<int>(phase_)]++;
  profile_.op_flops[static_cast<int>(info.kind)][static_cast<int>(phase_)] += info.flops;
  if (trace_) trace_->push_back({info, name_, action_, unit_});
}

void Stream::add_op_seconds(OpKind kind, double seconds) {
  profile_.op_seconds[static_cast<int>(kind)][static_cast<int>(phase_)] += seconds;
  if (trace_) trace_->back().seconds = seconds;
}

void Stream::make_progress() {
  for (Pending* pending : progress_) pending->advance(0);
}

}  // namespace tessera
