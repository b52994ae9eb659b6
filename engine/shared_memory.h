#pragma once
#include <vector>

#include "engine/dry_run.h"
#include "parallel/host_group.h"

/// Memory that several ranks share: the machine's, or a GPU's.
namespace tessera {

/// The ranks whose device memory is the same as this one's, itself among them. Collective.
std::vector<int> ranks_beside(const Device& device, HostGroup& host);

/// expect_fits for all ranks that share this rank's device memory. Collective: nobody returns before everybody has looked.
void expect_all_fit(const DryRun& dry, const Device& device, HostGroup& host);

/// A GPU from outside, without what its ranks' arenas explain. library_bytes, reserved_bytes: by how much the bytes in use grew when the
/// device's libraries were set up, and when its ranks reserved their arenas.
ProcessMemory gpu_memory(const MemoryInUse& in_use, std::vector<int> ranks, int64_t library_bytes, int64_t reserved_bytes);
/// The rest, when the rows of its ranks stand in `table`: what they explain; what the driver took beyond that for alignment is "slack".
void complete_gpu_memory(ProcessMemory& gpu, const MemoryTable& table);

}  // namespace tessera
