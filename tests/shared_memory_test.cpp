#include "engine/shared_memory.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tessera {
namespace {

DeviceTraits on_gpu(int gpu) { return {.kind = DeviceKind::Null, .host_memory = false, .gpu = gpu}; }

TEST(SharedMemory, RanksOfOneGpuFindEachOther) {
  run_thread_ranks(5, [](HostGroup& host) {
    const auto device = Device::null(on_gpu(host.rank() % 2));
    const std::vector<int> expected = host.rank() % 2 == 0 ? std::vector<int>{0, 2, 4} : std::vector<int>{1, 3};
    EXPECT_EQ(ranks_beside(*device, host), expected);
  });
}

TEST(SharedMemory, OnlyRanksOfOneGpuAddUp) {
  const int64_t available = Device::null(on_gpu(0))->available_bytes().value();
  DryRun dry;
  dry.size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = available / 10 * 7;
  dry.size.permanent_bytes[static_cast<size_t>(MemorySpace::PinnedHost)] = available;  // none of a GPU's
  const auto run = [&](int gpus) {
    run_thread_ranks(2, [&](HostGroup& host) { expect_all_fit(dry, *Device::null(on_gpu(host.rank() % gpus)), host); });
  };
  EXPECT_NO_THROW(run(2));
  EXPECT_THROW(run(1), OutOfMemoryError);
}

TEST(SharedMemory, AGpuFromOutsideIsNamedLineByLine) {
  MemoryTable table;
  for (int rank = 0; rank < 3; rank++) {
    table.add({.rank = rank, .space = MemorySpace::Device, .category = MemoryCategory::Weights, .measured_bytes = 100});
    table.add({.rank = rank, .space = MemorySpace::PinnedHost, .category = MemoryCategory::Data, .measured_bytes = 1000});
  }
  ProcessMemory gpu = gpu_memory({.source = "cudaMemGetInfo", .context_bytes = 500, .used_bytes = 790}, {0, 2}, 60, 210);
  complete_gpu_memory(gpu, table);
  EXPECT_EQ(gpu.explained_bytes, 200) << "device memory of its own ranks";
  const std::vector<NamedBytes> expected = {{"context", 500}, {"libraries", 60}, {"slack of the allocator", 10}};
  EXPECT_EQ(gpu.remainder, expected);
  EXPECT_EQ(gpu.unexplained_bytes(), 20);
}

}  // namespace
}  // namespace tessera
