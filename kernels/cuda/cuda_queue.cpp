#include "kernels/cuda/cuda_queue.h"

#include "base/error.h"
#include "kernels/cuda/check.h"

namespace tessera {

using cuda::check;

CudaQueue::CudaQueue() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }

CudaQueue::~CudaQueue() {
  (void)cudaStreamSynchronize(stream_);
  for (cudaEvent_t event : marks_) (void)cudaEventDestroy(event);
  for (cudaEvent_t event : unused_) (void)cudaEventDestroy(event);
  (void)cudaStreamDestroy(stream_);
}

cudaEvent_t CudaQueue::unused_event() {
  while (!marks_.empty() && first_ < kept_ && reached(first_)) {
    unused_.push_back(marks_.front());
    marks_.pop_front();
    first_++;
  }
  cudaEvent_t event = nullptr;
  if (unused_.empty()) {
    check(cudaEventCreateWithFlags(&event, cudaEventBlockingSync), "cudaEventCreateWithFlags");  // waits sleep, they do not spin
  } else {
    event = unused_.back();
    unused_.pop_back();
  }
  return event;
}

uint64_t CudaQueue::mark() {
  const std::lock_guard lock(mutex_);
  marks_.push_back(unused_event());
  check(cudaEventRecord(marks_.back(), stream_), "cudaEventRecord");
  return first_ + marks_.size() - 1;
}

bool CudaQueue::reached(uint64_t mark) {
  if (mark < first_ || mark <= reached_) return true;
  invariant(mark < first_ + marks_.size(), "a mark that nobody laid");
  const cudaError_t status = cudaEventQuery(event_of(mark));
  if (status == cudaErrorNotReady) {
    (void)cudaGetLastError();  // no error
    return false;
  }
  check(status, "cudaEventQuery");
  reached_ = mark;
  return true;
}

bool CudaQueue::advance(uint64_t mark) {
  const std::lock_guard lock(mutex_);
  return reached(mark);
}

void CudaQueue::sleep(uint64_t mark) {
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (reached(mark)) return;
    event = event_of(mark);
  }
  check(cudaEventSynchronize(event), "cudaEventSynchronize");  // only this thread uses events again
}

void CudaQueue::join(uint64_t mark, Queue& queue) {
  if (&queue == this) return;  // it is in order
  const std::lock_guard lock(mutex_);
  if (mark < first_ || mark <= reached_) return;
  check(cudaStreamWaitEvent(static_cast<cudaStream_t>(queue.native()), event_of(mark), 0), "cudaStreamWaitEvent");
}

double CudaQueue::seconds_between(uint64_t from, uint64_t to) {
  const std::lock_guard lock(mutex_);
  invariant(first_ <= from && from <= to && to < first_ + marks_.size(), "a mark that is no longer kept");
  float milliseconds = 0;
  if (from != to) check(cudaEventElapsedTime(&milliseconds, event_of(from), event_of(to)), "cudaEventElapsedTime");
  return 1e-3 * milliseconds;
}

void CudaQueue::keep_from(uint64_t mark) {
  const std::lock_guard lock(mutex_);
  kept_ = mark;
}

void CudaQueue::copy(void* to, const void* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
}

void CudaQueue::fill(void* to, unsigned char value, int64_t bytes) {
  check(cudaMemsetAsync(to, value, static_cast<size_t>(bytes), stream_), "cudaMemsetAsync");
}

}  // namespace tessera
