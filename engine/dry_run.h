#pragma once
#include <optional>
#include <vector>

#include "engine/run_config.h"
#include "kernels/arena.h"
#include "kernels/device.h"
#include "report/memory_table.h"

namespace tessera {

/// What one training step and one evaluation take on a rank, counted by the trainer's own code on the null device. A save takes nothing
/// from the arena.
struct DryRun {
  ArenaSize size;  // what a real arena must reserve, to the byte
  ArenaUse use;    // peaks by category
  Profile step;    // calls and FLOPs of the training step by op kind and phase
  Trace trace;     // the training step op by op; empty unless asked for
};

/// `imitated`: the device that the null device pretends to be.
DryRun dry_run(const ResolvedRun& run, int rank, const DeviceTraits& imitated, bool with_trace = false);

/// Peaks of an arena as rows of a memory table: dry-run or measured column.
void add_memory_rows(MemoryTable& table, int rank, const ArenaUse& use, MemoryColumn column);

/// OutOfMemoryError naming the bytes by category and what to lower, when the `needed_bytes` of all `local_ranks` of this machine exceed
/// `available_bytes` (no value: unknown, nothing is refused); `dry` is one of them.
void expect_fits(const DryRun& dry, int64_t needed_bytes, int local_ranks, std::optional<int64_t> available_bytes);

}  // namespace tessera
