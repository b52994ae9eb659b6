#pragma once
// What tests of kernels share: a stream, memory of the device as a vector, values.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <random>
#include <vector>

#include "kernels/cuda/check.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1  // as g++ says it
#endif
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

namespace tessera::cuda {

/// Faults that the emulator itself finds end the process so; AddressSanitizer's and ThreadSanitizer's reports end it as they are used to.
constexpr int emulator_status = 99, address_status = 1, race_status = 66;

/// A non-blocking stream for one test.
class TestStream {
 public:
  TestStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~TestStream() { cudaStreamDestroy(stream_); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Elements on the device. Copies wait for the whole device: what a kernel under test must not rely on is tested with plain calls.
template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(size_t size) : size_(size) { check(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)), "cudaMalloc"); }
  explicit DeviceVector(const std::vector<T>& values) : DeviceVector(values.size()) {
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~DeviceVector() { cudaFree(data_); }
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;
  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> values() const {
    std::vector<T> on_host(size_);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check(cudaMemcpy(on_host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return on_host;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

/// Normal random numbers, the same every time.
inline std::vector<float> random_floats(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace tessera::cuda
