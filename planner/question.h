#pragma once
#include "engine/run_config.h"
#include "kernels/device.h"
#include "planner/formula.h"

namespace tessera {

/// What the planner needs to know of a run and of the device that each rank has.
MemoryQuestion memory_question(const ResolvedRun& run, const DeviceTraits& device);

}  // namespace tessera
