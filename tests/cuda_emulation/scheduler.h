#pragma once
// One block's CUDA threads, as fibers that hand the host thread to each other: at barriers, at warp collectives and when they leave.
#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/fibers.h"

namespace cuda_emulation {

constexpr unsigned block_threads_max = 1024, copies_in_flight_max = 256;

enum class ThreadState : unsigned char { Fresh, Ready, AtBarrier, InCollective, Left };

struct BarrierPlace {
  const char* file = nullptr;
  int line = 0;
};

/// What a lane brings to a collective, and where it wants the answer.
struct LaneCall {
  unsigned mask = 0, bytes = 0;
  Collective kind{};
  int source = 0;  // lane to read; -1: all of them
  void* out = nullptr;
  alignas(16) unsigned char in[lane_bytes_max];
};

struct AsyncCopy {
  void* to;
  const void* from;
  unsigned bytes, source_bytes, group;
};

struct Thread : ThreadPlace {
  Fiber* fiber = nullptr;
  ThreadState state = ThreadState::Fresh;
  BarrierPlace barrier;
  LaneCall call;
  bool vote = false;
  unsigned barriers_passed = 0, warp_syncs_passed = 0;  // of all lanes
  AsyncCopy copies[copies_in_flight_max];
  unsigned copies_in_flight = 0, copy_groups = 0;
};

// Threads that can run, in the order in which they became ready. Fixed storage: nothing allocates inside a fiber, because
// ThreadSanitizer would see memory that one fiber takes and another gives back.
class ReadyThreads {
 public:
  void clear(unsigned threads) { capacity_ = threads, head_ = count_ = 0; }
  void push(Thread* thread) { at(count_++) = thread; }
  /// The next one by settings().order, which it takes out; null when there is none.
  Thread* take();

 private:
  Thread*& at(unsigned i) { return slots_[(head_ + i) % capacity_]; }
  Thread* slots_[block_threads_max];
  unsigned capacity_ = 1, head_ = 0, count_ = 0;
};

// Addresses through which ThreadSanitizer learns of order. Each grid, and each block, has fresh ones, so that no old edge hides a race.
struct OrderMarks {
  char* launch = nullptr;  // the launch before each thread
  char* end = nullptr;     // each thread before what follows the grid
  char* fence = nullptr;   // one object for all fences: never a false report, and a missing fence still shows
  char* block = nullptr;   // the block's barrier and those of its warps, 8 bytes apart
  // Two that take turns: a thread that is at the next barrier already shall not be ordered before one that still leaves this one.
  char* barrier(unsigned passed) const { return block + 8 * (passed % 2); }
  char* warp(unsigned warp, unsigned passed) const { return block + 16 + 8 * (3 * warp + passed % 2); }
  // Lanes of a part of the warp do not count alike: one mark for all of these, through which a race may hide.
  char* part_of_warp(unsigned warp) const { return block + 16 + 8 * (3 * warp + 2); }
  static constexpr std::size_t block_bytes = 16 + 8 * 3 * (block_threads_max / 32);
};

struct Block {
  Thread threads[block_threads_max];
  unsigned size = 0;     // threads of the block
  unsigned live = 0;     // of these, not left
  unsigned waiting = 0;  // at the barrier
  unsigned lanes_waiting[block_threads_max / 32] = {};
  ReadyThreads ready;
  OrderMarks marks;
  const std::function<void()>* body = nullptr;
};
Block& block();
inline Thread& current_thread() { return *static_cast<Thread*>(current); }

/// Runs the threads of block(), set up by the caller, until all have left. A deadlock is a fault.
void run_block();
/// The fiber that CUDA thread `index` gets in advance: only where races are watched. `stream` and `turn` choose among a few sets of
/// fibers, since what ran on one fiber counts as ordered.
Fiber* watched_fiber(unsigned stream, unsigned turn, unsigned index);

/// Gives the host thread to the next CUDA thread; comes back when this one is ready and picked.
void yield_thread();
void release_barrier_if_complete();
void release_lanes(unsigned warp);

/// Not std::memcpy and std::memset: sanitizers watch these, and the emulator's own copies are no accesses of a kernel.
void raw_copy(void* to, const void* from, std::size_t bytes);
void raw_fill(void* to, unsigned char value, std::size_t bytes);

/// Called by the host before its first launch: a mapping counts as a write by who makes it.
void prepare_shared_memory();
/// Shared memory for one block, full of NaN. AddressSanitizer: a heap block of the exact size. ThreadSanitizer: addresses that were not
/// used lately, since blocks that follow each other on one address would look like a race.
void* take_shared_memory(std::size_t bytes);
/// Sets dynamic_shared() for the block to come.
void begin_shared_memory(std::size_t dynamic_bytes);
void end_shared_memory();

/// Instrumented, so that the sanitizers see the access of cp.async.
void land_copy(void* to, const void* from, unsigned bytes, unsigned source_bytes);
/// Likewise, at its begin: from there on its target may be overwritten at any time, so it is full of NaN until the copy lands.
void spoil(void* memory, unsigned bytes);

}  // namespace cuda_emulation
