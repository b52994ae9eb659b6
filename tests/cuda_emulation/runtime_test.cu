// The emulated runtime: limits of launches, ranges of copies, errors, events, what is counted.
#include <cstring>

#include "base/error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "tests/cuda_emulation/cuda_test.h"
#include "tests/cuda_emulation/device_limits.h"
#include "tests/cuda_emulation/settings.h"

namespace tessera::cuda {
namespace {

using testing::ExitedWithCode;

__global__ void nothing_kernel(int) {}
__global__ void last_byte_kernel(int bytes) { dynamic_shared<char>()[bytes - 1] = 1; }

TEST(Launch, BeyondTheDevicesLimitsIsAnInternalErrorWithShapeAndPlace) {
  const TestStream stream;
  for (const LaunchShape& shape : {LaunchShape(0, 32), LaunchShape(1, 0), LaunchShape(1, 1025), LaunchShape({1, 65536}, 1),
                                   LaunchShape(1, {1, 1, 65}), LaunchShape(1, {32, 33})}) {
    EXPECT_THROW(launch(nothing_kernel, shape, stream, 1), InternalError);
  }
  try {
    launch(nothing_kernel, {{2, 65536}, 64}, stream, 1);
    FAIL();
  } catch (const InternalError& error) {
    EXPECT_NE(error.text().what.find("launch of 2 x 65536 x 1 blocks of 64 x 1 x 1 threads: cudaErrorInvalidConfiguration"),
              std::string::npos);
    EXPECT_NE(error.text().where.find("runtime_test.cu"), std::string::npos);
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // thrown, so not said again
}

TEST(Launch, AsksForMoreThan48KibOfSharedMemory) {
  const TestStream stream;
  const auto most = static_cast<int>(cuda_emulation::shared_bytes_opt_in);
  launch(last_byte_kernel, {1, 1, cuda_emulation::shared_bytes_opt_in}, stream, most);
  stream.synchronize();
  EXPECT_THROW(launch(last_byte_kernel, {1, 1, cuda_emulation::shared_bytes_opt_in + 1}, stream, most), InternalError);
  const cudaLaunchConfig_t unasked = {1, 1, 49 * 1024, stream, nullptr, 0};
  EXPECT_EQ(cudaLaunchKernelEx(&unasked, nothing_kernel, 1), cudaErrorInvalidValue);
}

TEST(Memory, MoreThanTheDeviceHasIsOutOfMemory) {
  cuda_emulation::Settings small = cuda_emulation::settings();
  small.device_bytes = 1 << 20;
  const cuda_emulation::ScopedSettings scope(small);
  const DeviceVector<char> most(1 << 19);
  EXPECT_THROW(DeviceVector<char>((1 << 19) + 1), OutOfMemoryError);
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  EXPECT_EQ(free_bytes, size_t{1} << 19);
  EXPECT_EQ(total_bytes, size_t{1} << 20);
}

TEST(Memory, CopiesThatLeaveTheirAllocationAreNamed) {
  const TestStream stream;
  const DeviceVector<int> memory(10);
  std::vector<int> on_host(10);
  EXPECT_EXIT(cudaMemcpyAsync(on_host.data(), memory.data() + 1, 40, cudaMemcpyDeviceToHost, stream), ExitedWithCode(emulator_status),
              "40 bytes at .* leave their allocation, which has 36");
  EXPECT_EXIT(cudaMemcpyAsync(memory.data() + 10, on_host.data(), 4, cudaMemcpyHostToDevice, stream), ExitedWithCode(emulator_status),
              "is not device memory");
  EXPECT_EXIT(cudaMemsetAsync(memory.data(), 0, 41, stream), ExitedWithCode(emulator_status), "cudaMemsetAsync: 41 bytes");
  EXPECT_EXIT(cudaMemcpy(memory.data(), on_host.data(), 40, cudaMemcpyDeviceToHost), ExitedWithCode(emulator_status), "is device memory");
}

TEST(Memory, PitchedCopiesMoveRows) {
  const TestStream stream;
  const DeviceVector<int> matrix(std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});  // 3 x 4
  std::vector<int> columns(6);
  check(cudaMemcpy2DAsync(columns.data(), 8, matrix.data() + 1, 16, 8, 3, cudaMemcpyDeviceToHost, stream), "cudaMemcpy2DAsync");
  stream.synchronize();
  EXPECT_EQ(columns, (std::vector<int>{1, 2, 5, 6, 9, 10}));
}

TEST(Memory, IsOutOfTheHostsReachWhereProtected) {
  cuda_emulation::Settings during = cuda_emulation::settings();
  during.protect_device_memory = true;
  const cuda_emulation::ScopedSettings scope(during);
  const DeviceVector<int> memory(std::vector<int>{1, 2, 3});
  EXPECT_EQ(memory.values()[2], 3);
  EXPECT_DEATH(memory.data()[0] = 5, "");
}

TEST(Events, TellTimeOnceTheyAreDone) {
  const TestStream stream;
  cudaEvent_t begin, end, untimed;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  check(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorInvalidResourceHandle);  // not recorded
  check(cudaEventRecord(begin, stream), "cudaEventRecord");
  check(cudaEventRecord(end, stream), "cudaEventRecord");
  check(cudaEventRecord(untimed, stream), "cudaEventRecord");
  check(cudaEventSynchronize(end), "cudaEventSynchronize");
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  EXPECT_GE(milliseconds, 0.0f);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, untimed), cudaErrorInvalidResourceHandle);
  for (const cudaEvent_t event : {begin, end, untimed}) check(cudaEventDestroy(event), "cudaEventDestroy");
}

TEST(Events, AreNotReadyBeforeTheirWorkAndPollingComesToAnEnd) {
  cuda_emulation::Settings during = cuda_emulation::settings();
  during.streams = cuda_emulation::StreamMode::Lazy;
  const cuda_emulation::ScopedSettings scope(during);
  const TestStream stream;
  cudaEvent_t event;
  check(cudaEventCreate(&event), "cudaEventCreate");
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);  // never recorded: complete
  launch(nothing_kernel, {1, 1}, stream, 1);
  check(cudaEventRecord(event, stream), "cudaEventRecord");
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  while (cudaEventQuery(event) == cudaErrorNotReady) {
  }
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  check(cudaEventDestroy(event), "cudaEventDestroy");
}

TEST(Graphs, LaunchWhatWasCapturedEachTime) {
  const TestStream stream;
  const DeviceVector<int> memory(1);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  check(cudaMemsetAsync(memory.data(), 1, sizeof(int), stream), "cudaMemsetAsync");
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  EXPECT_EQ(memory.values()[0], -1);  // captured is not run
  check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
  EXPECT_EQ(memory.values()[0], 0x01010101);
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
}

TEST(Calls, AreCounted) {
  const TestStream stream;
  const long before = cuda_emulation::calls_of("cudaLaunchKernelEx");
  launch(nothing_kernel, {1, 1}, stream, 1);
  EXPECT_EQ(cuda_emulation::calls_of("cudaLaunchKernelEx"), before + 1);
}

}  // namespace
}  // namespace tessera::cuda
