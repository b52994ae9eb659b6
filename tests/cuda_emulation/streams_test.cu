// The emulated runtime itself: streams, events, copies, and the order that they promise.
#include <atomic>
#include <cstring>
#include <thread>

#include "kernels/cuda/launch.h"
#include "tests/cuda_emulation/cuda_test.h"
#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/settings.h"

namespace tessera::cuda {
namespace {

using cuda_emulation::ScopedSettings;
using cuda_emulation::Settings;
using cuda_emulation::StreamMode;

Settings lazy() {
  Settings s = cuda_emulation::settings();
  s.streams = StreamMode::Lazy;
  return s;
}

__global__ void set_kernel(int* out, int value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = value;
}

__global__ void add_kernel(int* out, const int* in, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] += in[i];
}

constexpr int n = 300;
constexpr unsigned blocks = (n + 31) / 32;

/// Pinned host memory of n ints.
class PinnedInts {
 public:
  PinnedInts() {
    check(cudaMallocHost(reinterpret_cast<void**>(&data_), n * sizeof(int)), "cudaMallocHost");
    std::memset(data_, 0, n * sizeof(int));
  }
  ~PinnedInts() { cudaFreeHost(data_); }
  int* data() const { return data_; }

 private:
  int* data_ = nullptr;
};

/// sum = 1 + 5 over two streams, the 5 from `second`.
int sum_over_streams(bool waits, bool host_waits) {
  const TestStream first, second;
  const DeviceVector<int> sum(n), five(n);
  const PinnedInts on_host;
  cudaEvent_t written;
  check(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  launch(set_kernel, {blocks, 32}, first, sum.data(), 1, n);
  launch(set_kernel, {blocks, 32}, second, five.data(), 5, n);
  check(cudaEventRecord(written, second), "cudaEventRecord");
  if (waits) check(cudaStreamWaitEvent(first, written, 0), "cudaStreamWaitEvent");
  launch(add_kernel, {blocks, 32}, first, sum.data(), five.data(), n);
  check(cudaMemcpyAsync(on_host.data(), sum.data(), n * sizeof(int), cudaMemcpyDeviceToHost, first), "cudaMemcpyAsync");
  if (host_waits) first.synchronize();
  const int result = on_host.data()[n - 1];
  cudaDeviceSynchronize();
  check(cudaEventDestroy(written), "cudaEventDestroy");
  return result;
}

TEST(Streams, AnEventOrdersTwoStreamsAndAWaitTheHost) {
  EXPECT_EQ(sum_over_streams(true, true), 6);
  const ScopedSettings later(lazy());
  EXPECT_EQ(sum_over_streams(true, true), 6);
}

TEST(Streams, OfSeveralHostThreadsShareTheDevice) {
  for (const StreamMode mode : {StreamMode::Eager, StreamMode::Lazy}) {
    Settings during = cuda_emulation::settings();
    during.streams = mode;
    const ScopedSettings scope(during);
    std::vector<int> sums(3);
    std::vector<std::thread> ranks;
    for (int& sum : sums) ranks.emplace_back([&sum] { sum = sum_over_streams(true, true); });
    for (std::thread& rank : ranks) rank.join();
    EXPECT_EQ(sums, (std::vector<int>{6, 6, 6}));
  }
}

/// What one stream waits for is on another, whose own host waits for nothing: as with ranks that send to each other.
TEST(Streams, GoOnByThemselvesWhileAHostWaitsForAnother) {
  for (const StreamMode mode : {StreamMode::Eager, StreamMode::Lazy}) {
    Settings during = cuda_emulation::settings();
    during.streams = mode;
    const ScopedSettings scope(during);
    const TestStream receiver, sender;
    std::atomic<bool> posted = false, sent = false;  // of the host and a stream
    cuda_emulation::enqueue_when(
        receiver, [&] { return sent.load(); }, [] {});
    cuda_emulation::enqueue_when(
        sender, [&] { return posted.load(); }, [&] { sent = true; });
    posted = true;
    receiver.synchronize();
    EXPECT_TRUE(sent);
  }
}

#ifndef __SANITIZE_THREAD__  // these are races, and races_test.cu shows them
TEST(Streams, LazyOnesShowAMissingWaitOfAStream) {
  const ScopedSettings later(lazy());
  EXPECT_NE(sum_over_streams(false, true), 6);
}

TEST(Streams, LazyOnesShowAHostThatReadsTooEarly) {
  const ScopedSettings later(lazy());
  EXPECT_EQ(sum_over_streams(true, false), 0);
}
#endif

}  // namespace
}  // namespace tessera::cuda
