#include "planner/question.h"

namespace tessera {

MemoryQuestion memory_question(const ResolvedRun& run, const DeviceTraits& device) {
  const auto states = Optimizer::states(run.optimizer().rule, run.precision.moment);
  return {run.model, run.layout, run.micro_batch, run.precision, static_cast<int64_t>(states.size()), device.workspace_bytes};
}

}  // namespace tessera
