#include "engine/checkpoint_ranges.h"

#include <algorithm>

namespace tessera {

/// The parameters of bucket `b` inside [begin, end) of it: their elements, from `flat` whose first element stands at `origin` of the bucket.
static void append(std::vector<CheckpointRange>& ranges, const std::string& kind, const ShardMap& map, const Bucket& bucket, Tensor flat,
                   int64_t origin, int64_t begin, int64_t end) {
  for (const BucketEntry& entry : bucket.entries) {
    const ParamDecl& decl = map.decl(bucket, entry);
    const int64_t from = std::max(begin, entry.offset), to = std::min(end, entry.offset + decl.shape.elements());
    if (from >= to) continue;
    const std::string& name = decl.tied_to.empty() ? decl.name : decl.tied_to;
    ranges.push_back({kind + "/" + name, decl.shape, from - entry.offset, to - entry.offset, flat.flat_range(from - origin, to - origin)});
  }
}

static void append_states(std::vector<CheckpointRange>& ranges, Trainer& trainer, size_t b, int64_t begin, int64_t end) {
  const LocalBucket& local = trainer.params().buckets()[b];
  const std::vector<OptimizerStateDecl> states = trainer.optimizer().states();
  for (size_t s = 0; s < states.size(); s++) {
    append(ranges, states[s].name, trainer.params().map(), *local.bucket, trainer.optimizer().state(b, s), local.update_begin, begin, end);
  }
}

std::vector<CheckpointRange> ranges_to_save(Trainer& trainer) {
  std::vector<CheckpointRange> ranges;
  const std::vector<LocalBucket>& buckets = trainer.params().buckets();
  for (size_t b = 0; b < buckets.size(); b++) {
    const LocalBucket& local = buckets[b];
    if (!local.counted) continue;
    append(ranges, "weight", trainer.params().map(), *local.bucket, local.master, local.update_begin, local.owned_begin, local.owned_end);
    append_states(ranges, trainer, b, local.owned_begin, local.owned_end);
  }
  return ranges;
}

std::vector<CheckpointRange> ranges_to_load(Trainer& trainer) {
  std::vector<CheckpointRange> ranges;
  const std::vector<LocalBucket>& buckets = trainer.params().buckets();
  for (size_t b = 0; b < buckets.size(); b++) {
    const LocalBucket& local = buckets[b];
    append(ranges, "weight", trainer.params().map(), *local.bucket, local.weights, 0, 0, local.bucket->elements);
    if (!local.master_is_weight)
      append(ranges, "weight", trainer.params().map(), *local.bucket, local.master, local.update_begin, local.update_begin,
             local.update_end);
    append_states(ranges, trainer, b, local.update_begin, local.update_end);
  }
  return ranges;
}

}  // namespace tessera
