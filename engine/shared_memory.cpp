#include "engine/shared_memory.h"

#include <fmt/format.h>

namespace tessera {

namespace {

constexpr const char* slack = "slack of the allocator";

/// What a device that is not the process's own memory takes there.
int64_t device_bytes(const ArenaSize& size) { return size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] + size.scratch_bytes; }

}  // namespace

std::vector<int> ranks_beside(const Device& device, HostGroup& host) {
  const std::string own = std::to_string(device.traits().gpu);
  std::vector<int> ranks;
  for (const std::string& gpu : host.gather(own)) {
    ranks.push_back(static_cast<int>(ranks.size()));
    if (gpu != own) ranks.back() = -1;
  }
  std::erase(ranks, -1);
  return ranks;
}

void expect_all_fit(const DryRun& dry, const Device& device, HostGroup& host) {
  const std::vector<int> ranks = ranks_beside(device, host);
  const int64_t own = device.traits().host_memory ? dry.size.total_bytes() : device_bytes(dry.size);
  const std::vector<std::string> all = host.gather(std::to_string(own));
  int64_t needed = 0;
  for (const int rank : ranks) needed += std::stoll(all[static_cast<size_t>(rank)]);
  expect_fits(dry, needed, static_cast<int>(ranks.size()), device.available_bytes());
  host.barrier();
}

ProcessMemory gpu_memory(const MemoryInUse& in_use, std::vector<int> ranks, int64_t library_bytes, int64_t reserved_bytes) {
  return {.source = in_use.source,
          .ranks = std::move(ranks),
          .start_bytes = 0,
          .peak_bytes = in_use.used_bytes,
          .remainder = {{"context", in_use.context_bytes}, {"libraries", library_bytes}, {slack, reserved_bytes}}};
}

void complete_gpu_memory(ProcessMemory& gpu, const MemoryTable& table) {
  gpu.explained_bytes = table.total(gpu.ranks, MemorySpace::Device, &MemoryRow::measured_bytes).value_or(0);
  for (NamedBytes& part : gpu.remainder) {
    if (part.name == slack) part.bytes -= gpu.explained_bytes;
  }
}

}  // namespace tessera
