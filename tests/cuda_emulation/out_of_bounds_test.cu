// Accesses out of bounds: AddressSanitizer names the kernel's line, in global and in shared memory.
#include "kernels/cuda/instructions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/vector_access.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

constexpr int threads = 32;
struct Row {
  float of_thread[threads];
};

__global__ void global_kernel(float* out, int shift) { out[threadIdx.x + shift] = 1; }
__global__ void static_kernel(float* out, int shift) {
  float* row = shared<Row>().of_thread;
  row[threadIdx.x + shift] = 1;
  out[threadIdx.x] = row[threadIdx.x];
}
__global__ void dynamic_kernel(float* out, int shift) {
  float* row = dynamic_shared<float>();
  row[threadIdx.x + shift] = 1;
  out[threadIdx.x] = row[threadIdx.x];
}
__global__ void copy_kernel(float* out, int shift) {
  if (threadIdx.x == 0) copy_16_bytes_async(dynamic_shared<float>(), out + 4 * (threads / 4 - 1 + shift));
  commit_copies();
  wait_for_copies<0>();
}
__global__ void packed_kernel(float* out, int shift) { store_pack(out + shift, Pack<float>{}); }

void run(void (*kernel)(float*, int), int shift, unsigned threads_of_block = threads) {
  const TestStream stream;
  const DeviceVector<float> out(threads);
  launch(kernel, {1, threads_of_block, threads * sizeof(float)}, stream, out.data(), shift);
  stream.synchronize();
}

TEST(OutOfBounds, NothingIsFoundInside) {
  for (auto kernel : {global_kernel, static_kernel, dynamic_kernel, copy_kernel}) run(kernel, 0);
  run(packed_kernel, 4, 1);
}

#ifdef __SANITIZE_ADDRESS__
void expect_overflow(void (*kernel)(float*, int), const char* place) {
  EXPECT_EXIT(run(kernel, 1), testing::ExitedWithCode(address_status), std::string("heap-buffer-overflow(.|\n)*") + place);
}

TEST(OutOfBounds, GlobalMemoryIsWatched) { expect_overflow(global_kernel, "global_kernel.*out_of_bounds_test.cu:16"); }
TEST(OutOfBounds, StaticSharedMemoryIsWatched) { expect_overflow(static_kernel, "static_kernel.*out_of_bounds_test.cu:19"); }
TEST(OutOfBounds, DynamicSharedMemoryIsWatched) { expect_overflow(dynamic_kernel, "dynamic_kernel.*out_of_bounds_test.cu:24"); }
TEST(OutOfBounds, AsynchronousCopiesAreWatched) { expect_overflow(copy_kernel, "land_copy"); }
TEST(OutOfBounds, MisalignedPacksAreFound) { EXPECT_DEATH(run(packed_kernel, 1, 1), "misaligned address"); }

TEST(OutOfBounds, FreedMemoryIsWatched) {
  const TestStream stream;
  float* memory = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&memory), threads * sizeof(float)), "cudaMalloc");
  check(cudaFree(memory), "cudaFree");
  EXPECT_EXIT((launch(global_kernel, {1, threads}, stream, memory, 0), stream.synchronize()), testing::ExitedWithCode(address_status),
              "heap-use-after-free(.|\n)*global_kernel");
}
#endif

}  // namespace
}  // namespace tessera::cuda
