// Functions of the CUDA runtime: streams, events, graphs of one stream.
#include <cuda_runtime.h>

#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/streams.h"

using namespace cuda_emulation;  // the functions below have C names

namespace {

using Graph = std::vector<std::function<void()>>;
Event& event_of(cudaEvent_t event) { return *reinterpret_cast<Event*>(event); }

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Call call("cudaStreamCreate");
  *stream = reinterpret_cast<cudaStream_t>(create_stream(flags != cudaStreamNonBlocking));
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) { return cudaStreamCreateWithFlags(stream, flags); }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Call call("cudaStreamDestroy");
  if (!stream) return fail(cudaErrorInvalidResourceHandle);
  destroy_stream(&stream_of(stream));
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Call call("cudaStreamSynchronize");
  synchronize(stream_of(stream));
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Call call("cudaDeviceSynchronize");
  synchronize_all();
  return cudaSuccess;
}

// A query lets the stream get on by one piece of work, so that a host that polls comes to an end.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Call call("cudaStreamQuery");
  Stream& asked = stream_of(stream);
  if (!asked.work.empty()) {
    if (!advance(asked)) advance_any();
    return cudaErrorNotReady;
  }
  synchronize(asked);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Call call("cudaEventCreate");
  *event = reinterpret_cast<cudaEvent_t>(new Event{nullptr, (flags & cudaEventDisableTiming) == 0});
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Call call("cudaEventDestroy");
  delete &event_of(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Call call("cudaEventRecord");
  event_of(event).latest = enqueue_record(stream_of(stream));
  return cudaSuccess;
}

// An event that was never recorded is complete, as in CUDA.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Call call("cudaStreamWaitEvent");
  if (event_of(event).latest) enqueue_wait(stream_of(stream), event_of(event).latest);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Call call("cudaEventSynchronize");
  if (event_of(event).latest) wait_for(*event_of(event).latest);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Call call("cudaEventQuery");
  Record* latest = event_of(event).latest;
  if (!latest) return cudaSuccess;
  if (!latest->done) {
    if (!advance(*latest->stream)) advance_any();
    return cudaErrorNotReady;
  }
  wait_for(*latest);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const Call call("cudaEventElapsedTime");
  const Event &from = event_of(begin), &to = event_of(end);
  if (!from.latest || !to.latest || !from.timed || !to.timed) return fail(cudaErrorInvalidResourceHandle);
  if (!from.latest->done || !to.latest->done) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to.latest->when - from.latest->when).count();
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  const Call call("cudaLaunchHostFunc");
  enqueue(stream_of(stream), [=] { function(data); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Call call("cudaStreamBeginCapture");
  stream_of(stream).capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Call call("cudaStreamEndCapture");
  Stream& captured = stream_of(stream);
  captured.capturing = false;
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(std::move(captured.captured)));
  captured.captured.clear();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Call call("cudaGraphInstantiate");
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Call call("cudaGraphLaunch");
  for (const auto& work : *reinterpret_cast<Graph*>(executable)) enqueue(stream_of(stream), work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Call call("cudaGraphExecDestroy");
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}

}  // extern "C"
