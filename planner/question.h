#pragma once
#include "engine/run_config.h"
#include "planner/formula.h"

namespace tessera {

/// What the planner needs to know of a run.
MemoryQuestion memory_question(const ResolvedRun& run);

}  // namespace tessera
