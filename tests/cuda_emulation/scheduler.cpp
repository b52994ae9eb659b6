#include "tests/cuda_emulation/scheduler.h"

#include <random>
#include <vector>

#include "tests/cuda_emulation/sanitizers.h"
#include "tests/cuda_emulation/settings.h"

namespace cuda_emulation {

ThreadPlace* current = nullptr;

namespace {

Block the_block;
Fiber* launcher = nullptr;  // the stream's

// Fibers without a CUDA thread. Reserved once: see ReadyThreads.
std::vector<Fiber*>& idle_fibers() {
  static auto* fibers = [] {
    auto* reserved = new std::vector<Fiber*>;
    reserved->reserve(4 * block_threads_max);
    return reserved;
  }();
  return *fibers;
}

void run_threads();

Fiber* take_idle_fiber() {
  auto& idle = idle_fibers();
  if (idle.empty()) return create_fiber(run_threads);
  Fiber* fiber = idle.back();
  idle.pop_back();
  return fiber;
}

void switch_to_thread(Thread* next) {
  if (next && !next->fiber) next->fiber = take_idle_fiber();
  current = next;
  switch_to(next ? *next->fiber : *launcher);
}

void leave() {
  Thread& self = current_thread();
  self.copies_in_flight = self.copy_groups = 0;  // copies that nobody waited for never land
  self.state = ThreadState::Left;
  the_block.live--;
  release_barrier_if_complete();
  if (the_block.lanes_waiting[self.linear / 32]) release_lanes(self.linear / 32);
}

// What every fiber does: one CUDA thread after the other.
void run_threads() {
  for (;;) {
    happens_after(the_block.marks.launch);
    current_thread().state = ThreadState::Ready;
    (*the_block.body)();
    happens_before(the_block.marks.end);
    leave();
    Thread* next = the_block.ready.take();
    if (!races_are_watched) {
      if (next && !next->fiber) {  // on this stack: a kernel without barriers is a plain loop
        next->fiber = &running_fiber();
        current = next;
        continue;
      }
      idle_fibers().push_back(&running_fiber());
    }
    switch_to_thread(next);
  }
}

void report_deadlock() {
  for (unsigned t = 0; t < the_block.size; t++) {
    Thread& thread = the_block.threads[t];
    if (thread.state == ThreadState::AtBarrier) {
      fault("deadlock: %u threads wait for ever; thread %u at %s:%d", the_block.live, t, thread.barrier.file, thread.barrier.line);
    }
    if (thread.state == ThreadState::InCollective) {
      fault("deadlock: %u threads wait for ever; thread %u in a warp collective with mask 0x%08x", the_block.live, t, thread.call.mask);
    }
  }
}

}  // namespace

Block& block() { return the_block; }

Thread* ReadyThreads::take() {
  if (count_ == 0) return nullptr;
  const ThreadOrder order = settings().order;
  if (order == ThreadOrder::Reverse) return at(--count_);
  if (order == ThreadOrder::Random) {
    static std::minstd_rand random(settings().seed);
    std::swap(at(0), at(static_cast<unsigned>(random() % count_)));
  }
  Thread* first = at(0);
  head_ = (head_ + 1) % capacity_;
  count_--;
  return first;
}

Fiber* watched_fiber(unsigned stream, unsigned turn, unsigned index) {
  constexpr unsigned streams = 8, turns = 2;  // few: ThreadSanitizer tells 255 threads apart
  static Fiber* fibers[streams][turns][block_threads_max];
  Fiber*& fiber = fibers[stream % streams][turn % turns][index];
  if (!fiber) fiber = create_fiber(run_threads);
  return fiber;
}

void run_block() {
  launcher = &running_fiber();
  switch_to_thread(the_block.ready.take());
  current = nullptr;
  if (the_block.live > 0) report_deadlock();
}

void yield_thread() {
  Thread* self = &current_thread();
  Thread* next = the_block.ready.take();
  if (next == self) return;
  switch_to_thread(next);
}

void raw_copy(void* to, const void* from, std::size_t bytes) {
  auto* out = static_cast<volatile unsigned char*>(to);
  auto* in = static_cast<const volatile unsigned char*>(from);
  if (bytes == 4) {
    __builtin_memcpy(to, from, 4);
  } else if (bytes == 8) {
    __builtin_memcpy(to, from, 8);
  } else {
    for (std::size_t i = 0; i < bytes; i++) out[i] = in[i];
  }
}

void raw_fill(void* to, unsigned char value, std::size_t bytes) {
  auto* words = static_cast<volatile unsigned long long*>(to);
  for (std::size_t i = 0; i < bytes / 8; i++) words[i] = value * 0x0101010101010101ull;
  auto* rest = static_cast<volatile unsigned char*>(to);
  for (std::size_t i = bytes / 8 * 8; i < bytes; i++) rest[i] = value;
}

}  // namespace cuda_emulation
