#pragma once
#include <cuda_runtime_api.h>

#include <deque>
#include <mutex>
#include <vector>

#include "kernels/stream.h"

namespace tessera {

/// A CUDA stream behind a Stream. Marks are CUDA events: an event is used again when its mark has been reached and is no longer kept, so after
/// the first steps none is created.
class CudaQueue final : public Queue {
 public:
  /// On the current GPU; non-blocking: nothing in it waits for CUDA's default stream.
  CudaQueue();
  ~CudaQueue() override;
  CudaQueue(const CudaQueue&) = delete;

  uint64_t mark() override;
  double seconds_between(uint64_t from, uint64_t to) override;
  void keep_from(uint64_t mark) override;
  void copy(void* to, const void* from, int64_t bytes) override;
  void fill(void* to, unsigned char value, int64_t bytes) override;
  void* native() override { return stream_; }

  bool advance(uint64_t mark) override;
  void sleep(uint64_t mark) override;
  void join(uint64_t mark, Queue& queue) override;

 private:
  bool reached(uint64_t mark);
  cudaEvent_t event_of(uint64_t mark) const { return marks_[static_cast<size_t>(mark - first_)]; }
  cudaEvent_t unused_event();

  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;  // other ranks' threads join
  std::deque<cudaEvent_t> marks_;
  std::vector<cudaEvent_t> unused_;
  uint64_t first_ = 1;    // the mark of marks_.front(); all before it have been reached
  uint64_t reached_ = 0;  // the newest mark known to have been
  uint64_t kept_ = 1;
};

/// The CUDA stream that an op's body enqueues on.
inline cudaStream_t cuda_stream(Stream& stream) { return static_cast<cudaStream_t>(stream.queue()->native()); }

}  // namespace tessera
