#pragma once
#include <vector>

#include "engine/checkpoint.h"
#include "engine/trainer.h"

namespace tessera {

/// What this rank writes: the master weights and optimizer states that it owns, each element once over all ranks, a tied weight once.
std::vector<CheckpointRange> ranges_to_save(Trainer& trainer);

/// What this rank needs: its weights whole (rounded where their type is narrower than the saved master's), its masters and optimizer states
/// in the range that it updates, both uses of a tied weight.
std::vector<CheckpointRange> ranges_to_load(Trainer& trainer);

}  // namespace tessera
