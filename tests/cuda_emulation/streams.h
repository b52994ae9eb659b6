#pragma once
// Streams are queues of work that the host thread runs: at once (eager), or when somebody waits for it (lazy). ThreadSanitizer sees each
// stream as a thread of its own: only events and waits order it with other streams and with the host.
#include <cuda_runtime.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuda_emulation/fibers.h"

namespace cuda_emulation {

struct Stream;

/// One cudaEventRecord. Its address is the mark of order, so it lives as long as the process.
struct Record {
  Stream* stream = nullptr;
  bool done = false;
  std::chrono::steady_clock::time_point when;
};

struct Event {
  Record* latest = nullptr;
  bool timed = true;
};

struct Work {
  std::function<void()> run;
  Record* awaited = nullptr;                                // in place of `run`: cudaStreamWaitEvent
  std::function<bool()> ready;                              // if any: may it begin?
  std::unique_ptr<char> issued = std::make_unique<char>();  // mark: the host's call before the work
};

struct Stream {
  std::deque<Work> work;
  Work current;           // what runs; not on the host's stack, where the host wrote something else just before
  bool blocking = false;  // ordered with the default stream
  bool alive = true;
  int gpu = 0;
  bool capturing = false;
  std::vector<std::function<void()>> captured;
  Fiber* fiber = nullptr;  // a stack of its own
  char done = 0;           // mark: the work before a host that waits
  unsigned id = 0;
};

Stream& default_stream();
Stream& stream_of(cudaStream_t handle);
Stream* create_stream(bool blocking);
void destroy_stream(Stream* stream);

void enqueue(Stream& stream, std::function<void()> run);
void enqueue_wait(Stream& stream, Record* record);
Record* enqueue_record(Stream& stream);

/// Runs what a stream holds as far as it may run; the host is not ordered after it.
void drain(Stream& stream);
/// Runs one piece of work, so that a host that polls gets on. False: there is none, or it waits for other ranks.
bool advance(Stream& stream);
/// The same for the first of all ranks' streams that may run. On a GPU each gets on by itself; here, when the one that a host waits for
/// waits for another rank, whose host may wait elsewhere.
bool advance_any();
void wait_for(Record& record);
/// As the runtime's calls of these names: the host is ordered after the work. Streams of other GPUs than the current one go on by themselves.
void synchronize(Stream& stream);
void synchronize_all();

/// Which stream's work runs: its number.
unsigned running_stream();

/// Every function of the runtime begins with one of these: takes the runtime's lock (ranks may be threads) and counts the call.
class Call {
 public:
  explicit Call(const char* function);
  ~Call();
  Call(const Call&) = delete;
};

/// Lets other threads call while this one waits for what they must do.
void let_others_call();

/// Remembers an error for cudaGetLastError, and returns it.
cudaError_t fail(cudaError_t error);

}  // namespace cuda_emulation
