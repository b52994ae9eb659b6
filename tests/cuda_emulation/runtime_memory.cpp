// Functions of the CUDA runtime: memory and copies.
#include <cuda_runtime.h>

#include <cstring>
#include <memory>

#include "tests/cuda_emulation/device_memory.h"
#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/scheduler.h"
#include "tests/cuda_emulation/streams.h"

using namespace cuda_emulation;  // the functions below have C names

namespace {

bool resolve(cudaMemcpyKind& kind, const void* to, const void* from) {
  if (kind == cudaMemcpyDefault) {
    const bool to_device = is_device_memory(to), from_device = is_device_memory(from);
    kind = to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                     : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  }
  return kind >= cudaMemcpyHostToHost && kind <= cudaMemcpyDeviceToDevice;
}

void expect_ranges(const char* what, void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  to_device ? expect_device_range(what, to, bytes) : expect_host_range(what, to, bytes);
  from_device ? expect_device_range(what, from, bytes) : expect_host_range(what, from, bytes);
}

// Pageable host memory, as in CUDA's "API synchronization behavior": to the device it is staged before the call returns; from the
// device the call returns when the copy has ended.
void enqueue_copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream& stream) {
  if (kind == cudaMemcpyHostToDevice && !is_pinned_memory(from)) {
    std::shared_ptr<char[]> staged(new char[bytes]);
    std::memcpy(staged.get(), from, bytes);
    enqueue(stream, [to, bytes, staged = std::move(staged)] { std::memcpy(to, staged.get(), bytes); });
    return;
  }
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  const bool host_waits = kind == cudaMemcpyHostToHost || (kind == cudaMemcpyDeviceToHost && !is_pinned_memory(to));
  if (host_waits) synchronize(stream);
}

// Sanitizers watch memset. Not where a device makes its whole arena zero, of which a test touches little: to ThreadSanitizer that would be most
// of a test's work.
void fill(void* memory, int value, size_t bytes) {
  constexpr size_t watched_bytes_max = size_t{8} << 20;
  if (bytes > watched_bytes_max) {
    raw_fill(memory, static_cast<unsigned char>(value), bytes);
  } else {
    std::memset(memory, value, bytes);
  }
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const Call call("cudaMalloc");
  *memory = bytes ? take_device_memory(bytes) : nullptr;
  return *memory || bytes == 0 ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* memory) {
  const Call call("cudaFree");
  if (!memory) return cudaSuccess;
  synchronize_all();
  return give_back_device_memory(memory) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  const Call call("cudaHostAlloc");
  *memory = bytes ? take_pinned_memory(bytes) : nullptr;
  return *memory || bytes == 0 ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return cudaHostAlloc(memory, bytes, 0); }

cudaError_t cudaFreeHost(void* memory) {
  const Call call("cudaFreeHost");
  if (!memory) return cudaSuccess;
  synchronize_all();
  return give_back_pinned_memory(memory) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned) {
  const Call call("cudaHostRegister");
  register_pinned_memory(memory, bytes);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
  const Call call("cudaHostUnregister");
  synchronize_all();
  return unregister_pinned_memory(memory) ? cudaSuccess : fail(cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  const Call call("cudaPointerGetAttributes");
  *attributes = {};
  attributes->type = is_device_memory(address)   ? cudaMemoryTypeDevice
                     : is_pinned_memory(address) ? cudaMemoryTypeHost
                                                 : cudaMemoryTypeUnregistered;
  attributes->devicePointer = is_device_memory(address) ? const_cast<void*>(address) : nullptr;
  attributes->hostPointer = is_pinned_memory(address) ? const_cast<void*>(address) : nullptr;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Call call("cudaMemcpyAsync");
  if (bytes == 0) return cudaSuccess;
  if (!resolve(kind, to, from)) return fail(cudaErrorInvalidMemcpyDirection);
  expect_ranges("cudaMemcpyAsync", to, from, bytes, kind);
  enqueue_copy(to, from, bytes, kind, stream_of(stream));
  return cudaSuccess;
}

// On the default stream, which does not wait for non-blocking streams.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Call call("cudaMemcpy");
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  synchronize(default_stream());
  return error;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  const Call call("cudaMemcpy2DAsync");
  if (width == 0 || height == 0) return cudaSuccess;
  if (!resolve(kind, to, from)) return fail(cudaErrorInvalidMemcpyDirection);
  if (to_pitch < width || from_pitch < width) return fail(cudaErrorInvalidValue);
  expect_ranges("cudaMemcpy2DAsync", to, from, width, kind);
  expect_ranges("cudaMemcpy2DAsync", static_cast<char*>(to) + (height - 1) * to_pitch,
                static_cast<const char*>(from) + (height - 1) * from_pitch, width, kind);
  for (size_t row = 0; row < height; row++) {
    enqueue_copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width, kind,
                 stream_of(stream));
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  const Call call("cudaMemsetAsync");
  if (bytes == 0) return cudaSuccess;
  expect_device_range("cudaMemsetAsync", memory, bytes);
  enqueue(stream_of(stream), [=] { fill(memory, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) { return cudaMemsetAsync(memory, value, bytes, nullptr); }

}  // extern "C"
