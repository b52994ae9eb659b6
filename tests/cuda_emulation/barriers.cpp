// The block's barrier, warp collectives, fences, cp.async: what one CUDA thread asks of its block.
#include <cstring>

#include "tests/cuda_emulation/sanitizers.h"
#include "tests/cuda_emulation/scheduler.h"

namespace cuda_emulation {
namespace {

void make_ready(Thread& thread) {
  thread.state = ThreadState::Ready;
  block().ready.push(&thread);
}

// Nobody waits for a lane that cannot come.
void expect_lanes(unsigned warp, unsigned mask) {
  const unsigned first = warp * 32;
  for (unsigned l = 0; l < 32; l++) {
    if (((mask >> l) & 1u) == 0) continue;
    if (first + l >= block().size) fault("the mask 0x%08x of a warp collective names lane %u, which does not exist", mask, l);
    if (block().threads[first + l].state == ThreadState::Left) {
      fault("the mask 0x%08x of a warp collective names lane %u, which has left the kernel", mask, l);
    }
  }
}

// All lanes of the mask must be there, in the same collective. False: some are still on their way.
bool lanes_are_complete(unsigned warp, const Thread& lead) {
  for (unsigned l = 0; l < 32; l++) {
    if (((lead.call.mask >> l) & 1u) == 0) continue;
    const Thread& lane = block().threads[warp * 32 + l];
    if (lane.state != ThreadState::InCollective) return false;
    if (lane.call.mask != lead.call.mask || lane.call.kind != lead.call.kind || lane.call.bytes != lead.call.bytes) {
      fault("lanes %u and %u of a warp meet in different collectives (%d with mask 0x%08x, %d with mask 0x%08x)", lead.linear % 32, l,
            static_cast<int>(lead.call.kind), lead.call.mask, static_cast<int>(lane.call.kind), lane.call.mask);
    }
  }
  return true;
}

void answer_lane(const Thread* lanes, const LaneCall& call) {
  if (!call.out) return;
  if (call.source >= 0) {
    if (((call.mask >> call.source) & 1u) == 0) fault("a shuffle reads lane %d, which is not in the mask 0x%08x", call.source, call.mask);
    raw_copy(call.out, lanes[call.source].call.in, call.bytes);
    return;
  }
  auto* out = static_cast<unsigned char*>(call.out);
  for (unsigned l = 0; l < 32; l++) {
    if ((call.mask >> l) & 1u) {
      raw_copy(out + l * call.bytes, lanes[l].call.in, call.bytes);
    } else {
      raw_fill(out + l * call.bytes, 0, call.bytes);
    }
  }
}

void meet(unsigned mask, Collective kind, const void* in, unsigned bytes, int source, void* out) {
  if (!current) fault("a warp collective outside a kernel");
  Thread& self = current_thread();
  const unsigned warp = self.linear / 32, lane = self.linear % 32;
  if (((mask >> lane) & 1u) == 0) fault("lane %u calls a warp collective whose mask 0x%08x leaves it out", lane, mask);
  if (bytes > lane_bytes_max) fault("a lane gives %u bytes to a warp collective; at most %u", bytes, lane_bytes_max);
  self.call.mask = mask, self.call.kind = kind, self.call.bytes = bytes, self.call.source = source, self.call.out = out;
  expect_lanes(warp, mask);
  raw_copy(self.call.in, in, bytes);
  self.state = ThreadState::InCollective;
  block().lanes_waiting[warp] |= 1u << lane;
  if ((block().lanes_waiting[warp] & mask) == mask) release_lanes(warp);
  yield_thread();
}

}  // namespace

void release_barrier_if_complete() {
  Block& b = block();
  if (b.waiting == 0 || b.waiting < b.live) return;
  const Thread* first = nullptr;
  for (unsigned t = 0; t < b.size; t++) {
    Thread& thread = b.threads[t];
    if (thread.state != ThreadState::AtBarrier) continue;
    if (!first) first = &thread;
    if (b.live < b.size) {
      fault("%u threads left the kernel, and %u wait at the barrier %s:%d", b.size - b.live, b.waiting, first->barrier.file,
            first->barrier.line);
    }
    if (thread.barrier.line != first->barrier.line || std::strcmp(thread.barrier.file, first->barrier.file) != 0) {
      fault("threads diverge at a barrier: %u waits at %s:%d, %u at %s:%d", first->linear, first->barrier.file, first->barrier.line,
            thread.linear, thread.barrier.file, thread.barrier.line);
    }
    make_ready(thread);
  }
  b.waiting = 0;
}

void release_lanes(unsigned warp) {
  Thread* lanes = block().threads + warp * 32;
  for (unsigned l = 0; l < 32 && warp * 32 + l < block().size; l++) {
    if (lanes[l].state != ThreadState::InCollective) continue;
    const unsigned mask = lanes[l].call.mask;
    expect_lanes(warp, mask);
    if (!lanes_are_complete(warp, lanes[l])) continue;
    for (unsigned k = 0; k < 32; k++) {
      if ((mask >> k) & 1u) answer_lane(lanes, lanes[k].call);
    }
    for (unsigned k = 0; k < 32; k++) {
      if ((mask >> k) & 1u) make_ready(lanes[k]);
    }
    block().lanes_waiting[warp] &= ~mask;
  }
}

void sync_threads(const char* file, int line) {
  if (!current) fault("__syncthreads outside a kernel (%s:%d)", file, line);
  Thread& self = current_thread();
  char* mark = block().marks.barrier(self.barriers_passed++);
  happens_before(mark);
  self.barrier = {file, line};
  self.state = ThreadState::AtBarrier;
  block().waiting++;
  release_barrier_if_complete();
  yield_thread();
  happens_after(mark);
}

int sync_threads_vote(const char* file, int line, bool predicate, BarrierVote vote) {
  current_thread().vote = predicate;
  sync_threads(file, line);
  unsigned count = 0;
  for (unsigned t = 0; t < block().size; t++) count += block().threads[t].vote;
  sync_threads(file, line);  // all have counted before a vote changes
  if (vote == BarrierVote::Count) return static_cast<int>(count);
  return vote == BarrierVote::And ? count == block().size : count > 0;
}

void sync_warp(unsigned mask) {
  if (!current) fault("__syncwarp outside a kernel");
  const unsigned warp = current->linear / 32;
  char* mark = mask == 0xffffffffu ? block().marks.warp(warp, current_thread().warp_syncs_passed++) : block().marks.part_of_warp(warp);
  happens_before(mark);
  meet(mask, Collective::SyncWarp, nullptr, 0, 0, nullptr);
  happens_after(mark);
}

void warp_shuffle(unsigned mask, Collective kind, const void* in, unsigned bytes, int source, void* out) {
  meet(mask, kind, in, bytes, source, out);
}
void warp_gather(unsigned mask, Collective kind, const void* in, unsigned bytes, void* out) { meet(mask, kind, in, bytes, -1, out); }

void fence() {
  happens_before(block().marks.fence);
  happens_after(block().marks.fence);
}

void copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes) {
  Thread& self = current_thread();
  if (self.copies_in_flight == copies_in_flight_max) fault("more than %u cp.async in flight in one thread", copies_in_flight_max);
  spoil(shared, bytes);
  self.copies[self.copies_in_flight++] = {shared, global, bytes, source_bytes, self.copy_groups};
}

void copy_async_commit() { current_thread().copy_groups++; }

void copy_async_wait(unsigned groups_left) {
  Thread& self = current_thread();
  unsigned kept = 0;
  for (unsigned i = 0; i < self.copies_in_flight; i++) {
    const AsyncCopy copy = self.copies[i];
    if (copy.group + groups_left < self.copy_groups) {
      land_copy(copy.to, copy.from, copy.bytes, copy.source_bytes);
    } else {
      self.copies[kept++] = copy;
    }
  }
  self.copies_in_flight = kept;
}

}  // namespace cuda_emulation
