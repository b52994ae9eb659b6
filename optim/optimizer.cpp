#include "optim/optimizer.h"

#include <algorithm>

#include "base/error.h"

namespace tessera {

UpdateRule update_rule_named(std::string_view name) {
  if (name == "sgd") return UpdateRule::Sgd;
  if (name == "momentum") return UpdateRule::Momentum;
  if (name == "adagrad") return UpdateRule::AdaGrad;
  if (name == "adam") return UpdateRule::Adam;
  if (name == "adamw") return UpdateRule::AdamW;
  throw InternalError("no update rule is called " + std::string(name));
}

std::vector<UpdateSegment> update_segments(const ShardMap& map, const Bucket& bucket, int64_t begin, int64_t end,
                                           const OptimizerSettings& settings, bool merge) {
  std::vector<UpdateSegment> segments;
  for (const BucketEntry& entry : bucket.entries) {
    const ParamDecl& decl = map.decl(bucket, entry);
    const int64_t from = std::max(entry.offset, begin), to = std::min(entry.offset + decl.shape.elements(), end);
    if (from >= to || !decl.trainable) continue;
    const UpdateSegment segment{
        .begin = from - begin,
        .end = to - begin,
        .decay = decl.decay ? static_cast<float>(settings.weight_decay) : 0.0f,
        .rounding = RandomStream(settings.seed, RandomPurpose::Rounding, decl.tied_to.empty() ? decl.name : decl.tied_to),
        .first = from - entry.offset};
    if (merge && !segments.empty() && segments.back().end == segment.begin && segments.back().decay == segment.decay) {
      segments.back().end = segment.end;
    } else {
      segments.push_back(segment);
    }
  }
  return segments;
}

std::vector<OptimizerStateDecl> Optimizer::states(UpdateRule rule, DType moment) {
  switch (rule) {
    case UpdateRule::Sgd:
      return {};
    case UpdateRule::Momentum:
      return {{"momentum", moment}};
    case UpdateRule::AdaGrad:
      return {{"sum", moment}};
    case UpdateRule::Adam:
    case UpdateRule::AdamW:
      return {{"m", moment}, {"v", moment}};
  }
  throw InternalError("there is no such update rule");
}

Optimizer::Optimizer(const OptimizerSettings& settings, ShardedParams& params, Device& device)
    : settings_(settings), params_(params), ops_(device.update()) {
  for (const LocalBucket& local : params.buckets()) {
    std::vector<Tensor> of_bucket;
    for (const OptimizerStateDecl& state : states()) {
      of_bucket.push_back(device.arena().permanent(state.dtype, {local.update_end - local.update_begin}, MemoryCategory::OptimizerStates));
    }
    states_.push_back(std::move(of_bucket));
    const bool exact = local.master.dtype == DType::f32 && settings.moment == DType::f32;
    segments_.push_back(update_segments(params.map(), *local.bucket, local.update_begin, local.update_end, settings, exact));
  }
}

void Optimizer::update(double learning_rate, int64_t step, const StepControl* control, Stream& stream) {
  const UpdateHyper hyper{static_cast<float>(learning_rate), static_cast<float>(settings_.beta1), static_cast<float>(settings_.beta2),
                          static_cast<float>(settings_.epsilon)};
  for (size_t b = 0; b < states_.size(); b++) {
    const LocalBucket& local = params_.buckets()[b];
    const std::vector<Tensor>& states = states_[b];
    const UpdateShard shard{.master = local.master,
                            .weight = local.master_is_weight ? Tensor() : local.weights.flat_range(local.update_begin, local.update_end),
                            .gradient = local.gradients.flat_range(local.update_begin, local.update_end),
                            .first = states.empty() ? Tensor() : states[0],
                            .second = states.size() < 2 ? Tensor() : states[1]};
    stream.set_unit(local.bucket->unit);
    ops_.update(settings_.rule, shard, segments_[b], hyper, step, control, stream);
  }
}

}  // namespace tessera
