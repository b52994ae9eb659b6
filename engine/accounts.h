#pragma once
#include <vector>

#include "engine/run_config.h"
#include "engine/trainer.h"
#include "report/utilization.h"
#include "report/waterfall.h"

namespace tessera {

/// The sizes that every FLOP convention draws from; time and peak are filled by who measured them.
UtilizationInput utilization_input(const ResolvedRun& run);

/// The mean step of a profile gathered over `steps` training steps that took `seconds` together, and of the `save_seconds` between them,
/// which lengthen it.
Waterfall waterfall_of(const Profile& profile, int64_t steps, double seconds, double save_seconds);

}  // namespace tessera
