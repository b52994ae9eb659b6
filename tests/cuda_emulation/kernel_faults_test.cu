// Faults in kernels that the emulator finds by itself, whatever the sanitizer.
#include <cmath>

#include "kernels/cuda/instructions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/warp.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

__global__ void two_barriers_kernel(int*) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void leaves_early_kernel(int*) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}
__global__ void lane_left_kernel(int* out) {
  if (threadIdx.x == 31) return;
  out[threadIdx.x] = __shfl_xor_sync(all_lanes, 1, 1);
}
__global__ void wrong_mask_kernel(int* out) { out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1, 1); }
__global__ void two_collectives_kernel(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_xor_sync(all_lanes, 1, 1);
  } else {
    out[threadIdx.x] = __any_sync(all_lanes, 1);
  }
}
__global__ void source_outside_mask_kernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}
__global__ void lane_never_comes_kernel(int* out) {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    out[threadIdx.x] = __shfl_xor_sync(all_lanes, 1, 1);
  }
}
__global__ void dynamic_kernel(int* out) { out[threadIdx.x] = dynamic_shared<int>()[threadIdx.x]; }
__global__ void many_copies_kernel(int* out) {
  for (int i = 0; i < 257; i++) copy_16_bytes_async(dynamic_shared<int>(), out);
}

void run(void (*kernel)(int*), size_t shared_bytes = 0, unsigned threads = 32) {
  const TestStream stream;
  const DeviceVector<int> out(64);
  launch(kernel, {1, threads, shared_bytes}, stream, out.data());
  stream.synchronize();
}

using testing::ExitedWithCode;

TEST(KernelFaults, ThreadsAtDifferentBarriersAreNamed) {
  EXPECT_EXIT(run(two_barriers_kernel), ExitedWithCode(emulator_status),
              "threads diverge at a barrier: 0 waits at .*kernel_faults_test.cu");
}
TEST(KernelFaults, AThreadThatLeavesBeforeABarrierIsNamed) {
  EXPECT_EXIT(run(leaves_early_kernel), ExitedWithCode(emulator_status), "1 threads left the kernel, and 31 wait at the barrier");
}
TEST(KernelFaults, AMaskWithALaneThatHasLeftIsNamed) {
  EXPECT_EXIT(run(lane_left_kernel), ExitedWithCode(emulator_status), "names lane 31, which has left");
}
TEST(KernelFaults, AMaskWithALaneThatDoesNotExistIsNamed) {
  EXPECT_EXIT(run(lane_left_kernel, 0, 24), ExitedWithCode(emulator_status), "names lane 24, which does not exist");
}
TEST(KernelFaults, AMaskWithoutItsCallerIsNamed) {
  EXPECT_EXIT(run(wrong_mask_kernel), ExitedWithCode(emulator_status),
              "lane [0-9]+ calls a warp collective whose mask 0x0000ffff leaves it out");
}
TEST(KernelFaults, LanesInDifferentCollectivesAreNamed) {
  EXPECT_EXIT(run(two_collectives_kernel), ExitedWithCode(emulator_status), "meet in different collectives");
}
TEST(KernelFaults, AShuffleFromOutsideItsMaskIsNamed) {
  EXPECT_EXIT(run(source_outside_mask_kernel), ExitedWithCode(emulator_status),
              "a shuffle reads lane 20, which is not in the mask 0x0000ffff");
}
TEST(KernelFaults, ADeadlockIsNamed) {
  EXPECT_EXIT(run(lane_never_comes_kernel), ExitedWithCode(emulator_status), "deadlock: 32 threads wait for ever");
}
TEST(KernelFaults, DynamicSharedMemoryThatTheLaunchDidNotGiveIsNamed) {
  EXPECT_EXIT(run(dynamic_kernel), ExitedWithCode(emulator_status), "its launch gave none");
}
TEST(KernelFaults, TooManyCopiesInFlightAreNamed) {
  EXPECT_EXIT(run(many_copies_kernel, 16), ExitedWithCode(emulator_status), "more than 256 cp.async in flight");
}

struct Floats {
  float of_thread[32];
};
__global__ void uninitialized_kernel(int* out) { out[blockIdx.x * 32 + threadIdx.x] = std::isnan(shared<Floats>().of_thread[threadIdx.x]); }

TEST(Shared, StartsAsNanInEveryBlock) {
  const TestStream stream;
  const DeviceVector<int> out(96);
  launch(uninitialized_kernel, {3, 32}, stream, out.data());
  for (const int is_nan : out.values()) EXPECT_EQ(is_nan, 1);
}

__global__ void votes_kernel(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  out[thread] = __syncthreads_count(thread % 3 == 0) * 100 + __syncthreads_and(thread < 64) * 10 + __syncthreads_or(thread == 40);
  out[thread] += 100000 * (__ballot_sync(all_lanes, thread % 2) == 0xaaaaaaaau && __all_sync(all_lanes, 1) && !__any_sync(all_lanes, 0));
  out[thread] += 1000000 * (__reduce_add_sync(all_lanes, thread % 32) == 496 && __reduce_max_sync(all_lanes, thread % 32) == 31);
}

TEST(Collectives, VotesCountWholeBlocksAndWarps) {
  const TestStream stream;
  const DeviceVector<int> out(64);
  launch(votes_kernel, {1, 64}, stream, out.data());
  for (const int votes : out.values()) EXPECT_EQ(votes, 1000000 + 100000 + 22 * 100 + 10 + 1);
}

__global__ void shuffles_kernel(int* out) {
  const int lane = lane_of_thread();
  out[lane] =
      __shfl_up_sync(all_lanes, lane, 3) + 100 * __shfl_down_sync(all_lanes, lane, 5, 16) + 10000 * __shfl_sync(all_lanes, lane, 9, 8);
}

TEST(Collectives, ShufflesKeepTheirOwnValueAtTheEdge) {
  const TestStream stream;
  const DeviceVector<int> out(32);
  launch(shuffles_kernel, {1, 32}, stream, out.data());
  for (int lane = 0; lane < 32; lane++) {
    const int up = lane < 3 ? lane : lane - 3, down = lane % 16 + 5 > 15 ? lane : lane + 5, from = lane / 8 * 8 + 1;
    EXPECT_EQ(out.values()[static_cast<size_t>(lane)], up + 100 * down + 10000 * from);
  }
}

__global__ void atomics_kernel(unsigned* counters) {
  atomicAdd(&counters[0], 2u);
  atomicMax(&counters[1], threadIdx.x);
  atomicInc(&counters[2], 6u);
  atomicCAS(&counters[3], 0u, threadIdx.x + 1);
}

TEST(Atomics, OfAllThreadsAddUp) {
  const TestStream stream;
  const DeviceVector<unsigned> counters(std::vector<unsigned>(4, 0));
  launch(atomics_kernel, {2, 64}, stream, counters.data());
  const std::vector<unsigned> values = counters.values();
  EXPECT_EQ(values[0], 256u);
  EXPECT_EQ(values[1], 63u);
  EXPECT_EQ(values[2], 128u % 7);
  EXPECT_TRUE(values[3] >= 1 && values[3] <= 64);
}

}  // namespace
}  // namespace tessera::cuda
