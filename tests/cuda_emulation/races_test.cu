// Every kind of race, planted and not: what ThreadSanitizer must find, and what it must not.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/instructions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/warp.h"
#include "tests/cuda_emulation/cuda_test.h"
#include "tests/cuda_emulation/settings.h"

namespace tessera::cuda {
namespace {

constexpr int threads = 64;

struct Exchange {
  alignas(16) int of_thread[threads];
};

template <bool faulty>
__global__ void barrier_kernel(int* out) {
  int* values = shared<Exchange>().of_thread;
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!faulty) __syncthreads();
  out[blockIdx.x * threads + threadIdx.x] = values[threads - 1 - threadIdx.x];
}

// A barrier after the read is missing: the next round's write meets it.
template <bool faulty>
__global__ void second_barrier_kernel(int* out) {
  int* values = shared<Exchange>().of_thread;
  for (int round = 0; round < 2; round++) {
    values[threadIdx.x] = round;
    __syncthreads();
    out[blockIdx.x * threads + threadIdx.x] = values[threads - 1 - threadIdx.x];
    if (!faulty) __syncthreads();
  }
}

// The same among the lanes of a warp.
template <bool faulty>
__global__ void second_warp_kernel(int* out) {
  int* values = shared<Exchange>().of_thread;
  for (int round = 0; round < 2; round++) {
    values[threadIdx.x] = round;
    __syncwarp();
    out[blockIdx.x * threads + threadIdx.x] = values[threadIdx.x ^ 31];
    if (!faulty) __syncwarp();
  }
}

template <bool faulty>
__global__ void warp_kernel(int* out) {
  int* values = shared<Exchange>().of_thread;
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!faulty) __syncwarp();
  out[blockIdx.x * threads + threadIdx.x] = values[threadIdx.x ^ 1] + __shfl_xor_sync(all_lanes, 1, 1);  // a shuffle is no order of memory
}

// The last block to come adds up what the others wrote.
template <bool faulty>
__global__ void fence_kernel(int* out) {
  auto* arrived = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x > 0) return;
  out[2 + blockIdx.x] = static_cast<int>(blockIdx.x);
  if (!faulty) __threadfence();
  if (atomicAdd(arrived, 1u) + 1 < gridDim.x) return;
  if (!faulty) __threadfence();
  int sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += out[2 + b];
  out[1] = sum;
}

template <bool faulty>
__global__ void blocks_kernel(int* out) {
  out[faulty ? threadIdx.x : blockIdx.x * threads + threadIdx.x] += 1;
}

template <bool faulty>
__global__ void copy_kernel(int* out) {
  int* values = shared<Exchange>().of_thread;
  out += blockIdx.x * threads;
  if (threadIdx.x < threads / 4) copy_16_bytes_async(values + 4 * threadIdx.x, out + 4 * threadIdx.x);
  commit_copies();
  wait_for_copies<0>();
  if (!faulty) __syncthreads();  // a thread waits for its own copies only
  const int value = values[threads - 1 - threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = value;
}

void run(void (*kernel)(int*)) {
  const TestStream stream;
  const DeviceVector<int> out(std::vector<int>(4 * threads, 0));
  launch(kernel, {4, threads}, stream, out.data());
  stream.synchronize();
}

void run_two_streams(bool waits, bool host_waits) {
  cuda_emulation::Settings during = cuda_emulation::settings();
  during.streams = cuda_emulation::StreamMode::Lazy;
  const cuda_emulation::ScopedSettings scope(during);
  const TestStream first, second;
  const DeviceVector<int> out(std::vector<int>(4 * threads, 0));
  int* on_host = nullptr;
  check(cudaMallocHost(reinterpret_cast<void**>(&on_host), threads * sizeof(int)), "cudaMallocHost");
  std::memset(on_host, 0, threads * sizeof(int));
  cudaEvent_t written;
  check(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  launch(blocks_kernel<false>, {2, threads / 2}, first, out.data());
  check(cudaEventRecord(written, first), "cudaEventRecord");
  if (waits) check(cudaStreamWaitEvent(second, written, 0), "cudaStreamWaitEvent");
  launch(blocks_kernel<false>, {2, threads / 2}, second, out.data());
  check(cudaMemcpyAsync(on_host, out.data(), threads * sizeof(int), cudaMemcpyDeviceToHost, second), "cudaMemcpyAsync");
  if (host_waits) second.synchronize();
  const volatile int read = on_host[0];
  (void)read;
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  check(cudaEventDestroy(written), "cudaEventDestroy");
  check(cudaFreeHost(on_host), "cudaFreeHost");
}

#ifdef __SANITIZE_THREAD__
template <class Run>
void expect_race(Run run, const char* place) {
  EXPECT_EXIT((run(), std::exit(0)), testing::ExitedWithCode(race_status), std::string("data race(.|\n)*") + place);
}

bool blocks_are_unordered() { return cuda_emulation::settings().races == cuda_emulation::RaceScope::Grid; }

TEST(Races, AMissingBarrierIsFound) {
  expect_race([] { run(barrier_kernel<true>); }, "barrier_kernel");
}
TEST(Races, AMissingBarrierAfterAReadIsFound) {
  expect_race([] { run(second_barrier_kernel<true>); }, "second_barrier_kernel");
}
TEST(Races, AMissingWarpSyncIsFound) {
  expect_race([] { run(warp_kernel<true>); }, "warp_kernel");
}
TEST(Races, AMissingWarpSyncAfterAReadIsFound) {
  expect_race([] { run(second_warp_kernel<true>); }, "second_warp_kernel");
}
TEST(Races, CopiesOfOtherThreadsNeedABarrier) {
  expect_race([] { run(copy_kernel<true>); }, "copy_kernel");
}
TEST(Races, AMissingWaitOfAStreamIsFound) {
  expect_race([] { run_two_streams(false, true); }, "blocks_kernel");
}
TEST(Races, AHostThatReadsTooEarlyIsFound) {
  expect_race([] { run_two_streams(true, false); }, "run_two_streams");
}
TEST(Races, AMissingFenceIsFoundAmongUnorderedBlocks) {
  if (!blocks_are_unordered()) GTEST_SKIP() << "blocks are ordered in this run";
  expect_race([] { run(fence_kernel<true>); }, "fence_kernel");
}
TEST(Races, ARaceBetweenBlocksIsFoundAmongUnorderedBlocks) {
  if (!blocks_are_unordered()) GTEST_SKIP() << "blocks are ordered in this run";
  expect_race([] { run(blocks_kernel<true>); }, "blocks_kernel");
}
#else
using faulty_kernels_compile_everywhere = decltype(&barrier_kernel<true>);
#endif

TEST(Races, ThereAreNoneInCorrectKernels) {
  for (auto kernel : {barrier_kernel<false>, second_barrier_kernel<false>, warp_kernel<false>, second_warp_kernel<false>,
                      fence_kernel<false>, blocks_kernel<false>, copy_kernel<false>}) {
    run(kernel);
  }
  run_two_streams(true, true);
}

}  // namespace
}  // namespace tessera::cuda
