#include "optim/adamw.h"

#include <algorithm>

namespace tessera {

/// The parameters of a bucket inside [begin, end), relative to begin; neighbours with the same decay are one segment.
static std::vector<UpdateSegment> segments_of(const ShardMap& map, const LocalBucket& local, double weight_decay) {
  std::vector<UpdateSegment> segments;
  for (const BucketEntry& entry : local.bucket->entries) {
    const ParamDecl& decl = map.decl(*local.bucket, entry);
    const int64_t begin = std::max(entry.offset, local.update_begin);
    const int64_t end = std::min(entry.offset + decl.shape.elements(), local.update_end);
    if (begin >= end || !decl.trainable) continue;
    const UpdateSegment segment{begin - local.update_begin, end - local.update_begin, decl.decay ? static_cast<float>(weight_decay) : 0.0f};
    if (!segments.empty() && segments.back().end == segment.begin && segments.back().decay == segment.decay) {
      segments.back().end = segment.end;
    } else {
      segments.push_back(segment);
    }
  }
  return segments;
}

AdamW::AdamW(const AdamWConfig& config, ShardedParams& params, Device& device) : config_(config), params_(params), ops_(device.update()) {
  for (const LocalBucket& local : params.buckets()) {
    std::vector<Tensor> of_bucket;
    for (const OptimizerStateDecl& state : states()) {
      of_bucket.push_back(device.arena().permanent(state.dtype, {local.update_end - local.update_begin}, MemoryCategory::OptimizerStates));
    }
    states_.push_back(std::move(of_bucket));
    segments_.push_back(segments_of(params.map(), local, config.weight_decay));
  }
}

void AdamW::update(double learning_rate, const StepControl* control, Stream& stream) {
  const AdamWHyper hyper{static_cast<float>(learning_rate), static_cast<float>(config_.beta1), static_cast<float>(config_.beta2),
                         static_cast<float>(config_.epsilon)};
  for (size_t b = 0; b < states_.size(); b++) {
    const LocalBucket& local = params_.buckets()[b];
    stream.set_unit(local.bucket->unit);
    ops_.adamw(local.weights.flat_range(local.update_begin, local.update_end), states_[b][0], states_[b][1],
               local.gradients.flat_range(local.update_begin, local.update_end), segments_[b], hyper, control, stream);
  }
}

}  // namespace tessera
