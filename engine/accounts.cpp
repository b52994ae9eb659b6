#include "engine/accounts.h"

#include "model/decls.h"

namespace tessera {

UtilizationInput utilization_input(const ResolvedRun& run) {
  UtilizationInput input;
  const std::vector<UnitDecls> units = declare_model(run.model);
  input.parameters = parameter_count(units);
  for (size_t u = 1; u < units.size(); u++) {  // unit 0 is looked up, not multiplied
    for (const ParamDecl& decl : units[u].decls) input.matmul_parameters += decl.shape.rank() == 2 ? decl.shape.elements() : 0;
  }
  input.layers = run.model.layers, input.hidden = run.model.hidden, input.heads = run.model.heads, input.head_dim = run.model.head_dim;
  input.sequence = run.micro_batch.T, input.vocab = run.model.vocab;
  input.tokens_per_step = run.tokens_per_step();
  input.devices = run.layout.ranks();
  return input;
}

Waterfall waterfall_of(const Profile& profile, int64_t steps, double seconds, double save_seconds) {
  const double each = 1.0 / static_cast<double>(steps);
  const auto ops = [&](Phase phase) { return profile.seconds_of(phase) * each; };
  const auto wait = [&](WaitReason reason) { return profile.wait_seconds[static_cast<int>(reason)] * each; };
  Waterfall waterfall;
  waterfall.step_seconds = (seconds + save_seconds) * each;
  waterfall[Bar::Forward] = ops(Phase::Forward);
  waterfall[Bar::Backward] = ops(Phase::Backward);
  waterfall[Bar::Recompute] = ops(Phase::Recompute);
  waterfall[Bar::ExposedTp] = wait(WaitReason::Tp);
  waterfall[Bar::ExposedDp] = wait(WaitReason::Dp);
  waterfall[Bar::Bubble] = profile.idle_seconds[static_cast<int>(WaitReason::Pp)] * each;
  waterfall[Bar::ExposedPp] = wait(WaitReason::Pp) - waterfall[Bar::Bubble];
  waterfall[Bar::ExposedTied] = wait(WaitReason::Tied);
  waterfall[Bar::ExposedControl] = wait(WaitReason::Control);
  waterfall[Bar::Optimizer] = ops(Phase::Data) + ops(Phase::Exchange) + ops(Phase::Update);
  waterfall[Bar::Data] = wait(WaitReason::Data);
  waterfall[Bar::Checkpoint] = save_seconds * each;
  return waterfall;
}

}  // namespace tessera
