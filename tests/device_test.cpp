#include "kernels/device.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "base/error.h"

namespace tessera {
namespace {

/// `bytes` beside the workspace.
ArenaSize permanent(const Device& device, int64_t bytes) {
  ArenaSize size = device.workspace_size();
  size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] += bytes;
  return size;
}

TEST(CpuDevice, SaysWhatItIs) {
  const auto device = Device::cpu(3);
  const DeviceTraits& traits = device->traits();
  EXPECT_FALSE(device->is_null());
  EXPECT_STREQ(name_of(traits.kind), "cpu");
  EXPECT_EQ(traits.threads, 3);
  EXPECT_EQ(omp_get_max_threads(), 3) << "the rank's thread runs its own loops and oneDNN's on as many threads";
  EXPECT_FALSE(traits.name.empty());
  EXPECT_FALSE(traits.isa.empty());
  EXPECT_GT(traits.memory_bytes, int64_t{1} << 26);
  EXPECT_THROW(Device::cpu(0), InternalError);
}

TEST(CpuDevice, HasNoMemoryBeforeItIsReservedAndTakesItOnce) {
  const auto device = Device::cpu(1);
  EXPECT_THROW(device->arena(), InternalError);
  device->reserve(permanent(*device, 64));
  EXPECT_EQ(device->arena().permanent(DType::f32, {16}, MemoryCategory::Weights).bytes(), 64);
  EXPECT_THROW(device->reserve(permanent(*device, 64)), InternalError);
}

TEST(CpuDevice, WhatIsWrittenIsRead) {
  const auto device = Device::cpu(1);
  device->reserve(permanent(*device, 64));
  const Tensor tensor = device->arena().permanent(DType::f32, {2, 3}, MemoryCategory::Weights);
  const std::array<float, 6> values = {1, 2, 3, 4, 5, 6};
  std::array<float, 6> read{};
  device->write(tensor, values.data(), 24);
  device->read(read.data(), tensor, 24);
  EXPECT_EQ(read, values);
  EXPECT_THROW(device->write(tensor, values.data(), 20), InternalError);
  EXPECT_THROW(device->read(read.data(), tensor.column_range(0, 2), 16), InternalError) << "strided";
}

TEST(CpuDevice, MeasuresAMatmulRate) {
  const auto device = Device::cpu(1);
  device->reserve(device->workspace_size());
  const double rate = measured_matmul_flops_per_second(*device, DType::f32);
  EXPECT_GT(rate, 1e8);
  EXPECT_LT(rate, 1e15);
  EXPECT_EQ(device->compute().profile().op_calls[static_cast<int>(OpKind::LinearForward)][static_cast<int>(Phase::Setup)], 0)
      << "the measurement does not show in the profile of the run";
}

TEST(NullDevice, CountsFromItsBirthAndTouchesNoMemory) {
  const auto device = Device::null({.kind = DeviceKind::Cuda, .name = "H100", .isa = "sm_90", .threads = 1, .memory_bytes = 1});
  EXPECT_TRUE(device->is_null());
  EXPECT_EQ(device->traits().name, "H100");
  const Tensor huge = device->arena().permanent(DType::f32, {int64_t{1} << 38}, MemoryCategory::Weights);
  std::vector<float> buffer = {7};
  EXPECT_NO_THROW(device->write(huge.flat_range(0, 1), buffer.data(), 4));
  EXPECT_NO_THROW(device->read(buffer.data(), huge.flat_range(5, 6), 4));
  EXPECT_EQ(buffer[0], 7) << "read leaves the buffer as it is";
  EXPECT_THROW(device->write(huge, buffer.data(), 4), InternalError) << "checks are the cpu's";
}

TEST(NullDevice, HasNoSpeedAndTakesNoTime) {
  const auto device = Device::null({});
  EXPECT_THROW(measured_matmul_flops_per_second(*device, DType::f32), InternalError);
  EXPECT_FALSE(device->compute().timed());
  EXPECT_TRUE(Device::cpu(1)->compute().timed());
}

TEST(NullDevice, KeepsItsCountWhenAskedToReserve) {
  const auto device = Device::null({});
  device->arena().permanent(DType::f32, {16}, MemoryCategory::Weights);
  device->reserve(permanent(*device, 64));
  EXPECT_EQ(device->arena().size(), permanent(*device, 64));
}

}  // namespace
}  // namespace tessera
