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

// A host that waits, and has to let the others' ranks in when nothing moves.
void run_until(const std::function<bool()>& reached, const std::function<bool()>& move) {
  while (!reached()) {
    if (!move() && !advance_any()) let_others_call();
  }
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
  stream.gpu = current_gpu();
  return &stream;
}

void destroy_stream(Stream* stream) {
  run_until([&] { return stream->work.empty(); }, [&] { return advance(*stream); });
  stream->alive = false;
}

void enqueue(Stream& stream, std::function<void()> run) {
  if (stream.capturing) {
    stream.captured.push_back(std::move(run));
    return;
  }
  order_with_default_stream(stream);
  stream.work.push_back({std::move(run), nullptr, {}});
  started(stream);
}

void enqueue_wait(Stream& stream, Record* record) {
  stream.work.push_back({{}, record, {}});
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
                         },
                         nullptr,
                         {}});
  started(stream);
  return record;
}

bool advance(Stream& stream) {
  if (stream.work.empty()) return false;
  const Work& next = stream.work.front();
  if (next.ready && !next.ready()) return false;
  while (next.awaited && !next.awaited->done) {
    if (!advance(*next.awaited->stream)) return false;
  }
  stream.current = std::move(stream.work.front());
  stream.work.pop_front();
  run(stream, stream.current);
  return true;
}

bool advance_any() {
  std::deque<Stream>& streams = all_streams();
  for (size_t i = 0; i < streams.size(); i++) {  // others may add some meanwhile
    if (advance(streams[i])) return true;
  }
  return false;
}

void drain(Stream& stream) {
  while (advance(stream)) {
  }
}

void wait_for(Record& record) {
  run_until([&] { return record.done; }, [&] { return advance(*record.stream); });
  happens_after(&record);
}

void synchronize(Stream& stream) {
  run_until([&] { return stream.work.empty(); }, [&] { return advance(stream); });
  happens_after(&stream.done);
}

void synchronize_all() {
  std::deque<Stream>& streams = all_streams();
  for (size_t i = 0; i < streams.size(); i++) {  // others may add some meanwhile
    if (streams[i].gpu == current_gpu()) synchronize(streams[i]);
  }
}

unsigned running_stream() { return running_id; }

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const Call call("(library)");
  enqueue(stream_of(stream), std::move(work));
}

void enqueue_when(cudaStream_t stream, std::function<bool()> ready, std::function<void()> work) {
  const Call call("(library)");
  Stream& enqueued = stream_of(stream);
  if (enqueued.capturing) fault("work that waits for other ranks in a graph");
  enqueued.work.push_back({std::move(work), nullptr, std::move(ready)});
  started(enqueued);
}

void locked(const std::function<void()>& body) {
  const Call call("(library)");
  body();
}

}  // namespace cuda_emulation
