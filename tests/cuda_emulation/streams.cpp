#include "tests/cuda_emulation/streams.h"

#include <utility>

#include "tests/cuda_emulation/device_memory.h"
#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/sanitizers.h"
#include "tests/cuda_emulation/settings.h"

namespace cuda_emulation {
namespace {

unsigned running_id = 0;

// Destroyed ones, too: records of events name them, and their marks must not be given to another. The first is the default stream.
std::deque<Stream>& all_streams() {
  static auto* streams = new std::deque<Stream>;
  return *streams;
}

// What runs next, and who asked for it.
Stream* chosen_stream = nullptr;
Work* chosen_work = nullptr;
Fiber* asker = nullptr;

void perform(Stream& stream, Work& work) {
  happens_after(work.issued.get());
  if (work.awaited) {
    happens_after(work.awaited);
  } else {
    running_id = stream.id;
    open_device_memory();
    work.run();
    close_device_memory();
  }
  work.run = nullptr;  // closures die where they are read
  happens_before(&stream.done);
}

// What the fiber of every stream does.
void run_work() {
  for (;;) {
    perform(*chosen_stream, *chosen_work);
    switch_to(*asker);
  }
}

void run(Stream& stream, Work& work) {
  asker = &running_fiber();
  chosen_stream = &stream;
  chosen_work = &work;
  switch_to(*stream.fiber);
}

Stream& add_stream(std::deque<Stream>& streams) {
  Stream& stream = streams.emplace_back();
  stream.id = static_cast<unsigned>(streams.size()) - 1;
  // Now, and not at the first work: a new thread comes after all that its creator knows of, which may be the work that it races with.
  stream.fiber = create_fiber(run_work);
  return stream;
}

void started(Stream& stream) {
  happens_before(stream.work.back().issued.get());
  if (settings().streams == StreamMode::Eager || &stream == &default_stream()) drain(stream);
}

// The legacy default stream and blocking streams wait for each other.
void order_with_default_stream(Stream& stream) {
  if (&stream != &default_stream()) return;
  for (Stream& other : all_streams()) {
    if (other.alive && other.blocking) enqueue_wait(stream, enqueue_record(other));
  }
}

}  // namespace

Stream& default_stream() {
  if (all_streams().empty()) add_stream(all_streams());
  return all_streams().front();
}

Stream& stream_of(cudaStream_t handle) {
  if (!handle || handle == cudaStreamLegacy) return default_stream();
  for (Stream& stream : all_streams()) {
    if (stream.alive && reinterpret_cast<cudaStream_t>(&stream) == handle) return stream;
  }
  fault("%p is not a stream, or no longer", static_cast<void*>(handle));
}

Stream* create_stream(bool blocking) {
  default_stream();
  Stream& stream = add_stream(all_streams());
  stream.blocking = blocking;
  return &stream;
}

void destroy_stream(Stream* stream) {
  drain(*stream);
  stream->alive = false;
}

void enqueue(Stream& stream, std::function<void()> run) {
  if (stream.capturing) {
    stream.captured.push_back(std::move(run));
    return;
  }
  order_with_default_stream(stream);
  stream.work.push_back({std::move(run)});
  started(stream);
}

void enqueue_wait(Stream& stream, Record* record) {
  stream.work.push_back({{}, record});
  started(stream);
}

Record* enqueue_record(Stream& stream) {
  static auto* records = new std::deque<Record>;
  Record* record = &records->emplace_back();
  record->stream = &stream;
  stream.work.push_back({[record] {
    record->done = true;
    record->when = std::chrono::steady_clock::now();
    happens_before(record);
  }});
  started(stream);
  return record;
}

void advance(Stream& stream) {
  if (stream.work.empty()) return;
  Work work = std::move(stream.work.front());
  stream.work.pop_front();
  if (work.awaited) {
    while (!work.awaited->done) advance(*work.awaited->stream);
  }
  run(stream, work);
}

void drain(Stream& stream) {
  while (!stream.work.empty()) advance(stream);
}

void wait_for(Record& record) {
  while (!record.done) advance(*record.stream);
  happens_after(&record);
}

void synchronize(Stream& stream) {
  drain(stream);
  happens_after(&stream.done);
}

void synchronize_all() {
  for (Stream& stream : all_streams()) synchronize(stream);
}

unsigned running_stream() { return running_id; }

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const Call call("(library)");
  enqueue(stream_of(stream), std::move(work));
}

}  // namespace cuda_emulation
