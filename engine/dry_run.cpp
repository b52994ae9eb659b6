#include "engine/dry_run.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/trainer.h"
#include "parallel/host_group.h"

namespace tessera {

DryRun dry_run(const ResolvedRun& run, int rank, const DeviceTraits& imitated, bool with_trace) {
  DryRun result;
  const auto device = Device::null(imitated);
  const auto host = make_null_group(rank, run.layout.ranks());
  Mesh mesh(run.layout, *host);
  Trainer trainer(run, *device, mesh);
  trainer.initialize();
  device->compute().profile() = {};
  if (with_trace) device->compute().set_trace(&result.trace);
  trainer.train_step(0, nullptr, false);
  device->compute().set_trace(nullptr);
  result.step = device->compute().profile();
  trainer.evaluate(nullptr, 1);
  result.size = device->arena().size();
  result.use = device->arena().use();
  return result;
}

void add_memory_rows(MemoryTable& table, int rank, const ArenaUse& use, MemoryColumn column) {
  for (int space = 0; space < memory_spaces; space++) {
    for (int category = 0; category < memory_categories; category++) {
      const int64_t bytes = use.peak_bytes[space][category];
      if (bytes == 0) continue;
      MemoryRow row{.rank = rank, .space = static_cast<MemorySpace>(space), .category = static_cast<MemoryCategory>(category)};
      row.*column = bytes;
      table.add(row);
    }
  }
}

void expect_fits(const DryRun& dry, int64_t needed_bytes, int local_ranks, std::optional<int64_t> available_bytes) {
  if (!available_bytes || needed_bytes <= *available_bytes) return;
  std::string categories;
  for (int category = 0; category < memory_categories; category++) {
    const int64_t bytes = dry.use.peak_bytes[static_cast<int>(MemorySpace::Device)][category];
    if (bytes > 0)
      categories +=
          fmt::format("{}{} {}", categories.empty() ? "" : ", ", name_of(static_cast<MemoryCategory>(category)), format_bytes(bytes));
  }
  throw OutOfMemoryError(
      {fmt::format("{} needed, {} available", format_bytes(needed_bytes), format_bytes(*available_bytes)),
       fmt::format("{} rank{} on this machine; this one: {}", local_ranks, local_ranks == 1 ? "" : "s", categories),
       {},
       "lower train.micro_batch_size (activations, logits) or the model's size; parallel.zero = 1 shards optimizer states over dp"});
}

}  // namespace tessera
