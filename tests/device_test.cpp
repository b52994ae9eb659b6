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

TEST(CpuDevice, FillsMemoryAndReadsPinnedMemoryBehindAnEvent) {
  const auto device = Device::cpu(1);
  ArenaSize size = permanent(*device, 64);
  size.permanent_bytes[static_cast<size_t>(MemorySpace::PinnedHost)] = 64;
  device->reserve(size);
  const Tensor memory = device->arena().permanent(DType::u8, {64}, MemoryCategory::Data);
  const Tensor pinned = device->arena().permanent(DType::u8, {64}, MemoryCategory::Data, MemorySpace::PinnedHost);
  device->fill({static_cast<std::byte*>(memory.data), 64}, 0x3c);
  device->copy(pinned, memory, device->copies());
  std::array<uint8_t, 64> read{};
  device->read_pinned(read.data(), pinned, 64, device->copies().record());
  EXPECT_EQ(read[0], 0x3c);
  EXPECT_EQ(read[63], 0x3c);
  EXPECT_EQ(device->copies().profile().op_calls[static_cast<int>(OpKind::Copy)][static_cast<int>(Phase::Setup)], 1);
  EXPECT_THROW(device->copy(pinned, memory.flat_range(0, 32), device->copies()), InternalError);
}

TEST(CpuDevice, MeasurementsLieBesideItsArenaAndShowInNoProfile) {
  const auto device = Device::cpu(1);
  device->reserve(permanent(*device, 0));
  ArenaSize size;
  size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = 64;
  const auto arena = device->separate_arena(size);
  const Tensor tensor = arena->permanent(DType::f32, {16}, MemoryCategory::Scratch);
  EXPECT_GT(device->seconds_of([&](Stream& stream) { device->elementwise().zero(tensor, stream); }), 0);
  EXPECT_EQ(device->compute().profile().op_calls[static_cast<int>(OpKind::Zero)][static_cast<int>(Phase::Setup)], 0);
  EXPECT_EQ(device->arena().size(), device->workspace_size());
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

TEST(NullDevice, TracesCopiesAndMakesNone) {
  const auto device = Device::null(imitated_cuda(1));
  const Tensor to = device->arena().permanent(DType::i32, {8}, MemoryCategory::Data);
  const Tensor from = device->arena().permanent(DType::i32, {8}, MemoryCategory::Data, MemorySpace::PinnedHost);
  Trace trace;
  device->copies().set_trace(&trace);
  device->copy(to, from, device->copies());
  device->copies().set_trace(nullptr);
  ASSERT_EQ(trace.size(), 1u);
  EXPECT_EQ(trace[0].info.kind, OpKind::Copy);
  EXPECT_EQ(trace[0].info.write_bytes, 32);
}

TEST(NullDevice, ImitatesAGpuThatTheHostCannotWrite) {
  const DeviceTraits traits = imitated_cuda(3);
  EXPECT_FALSE(traits.host_memory);
  EXPECT_EQ(traits.threads, 3);
  EXPECT_EQ(traits.multiprocessors, 132);
  EXPECT_EQ(traits.workspace_bytes, int64_t{33} << 20);
  EXPECT_EQ(imitated_cuda(3, 108).workspace_bytes, int64_t{32} << 20) << "an A100";
  EXPECT_TRUE(imitated_cpu(3).host_memory);
}

TEST(NullDevice, HasNoSpeedAndTakesNoTime) {
  const auto device = Device::null({});
  EXPECT_THROW(device->seconds_of([](Stream&) {}), InternalError);
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
