#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "parallel/gradient_exchange.h"
#include "parallel/mesh.h"
#include "parallel/shard_map.h"

namespace tessera {

/// A linear layer's weight in panels, for each product that reads it. Empty where weights are not packed.
struct PackedWeight {
  Tensor forward, backward_input;
};

/// The tensors of one unit's parameters on this rank, by index into UnitDecls::decls. A tied weight without storage of its own shows
/// those of the parameter that it repeats.
struct UnitView {
  std::vector<Tensor> weights;         // compute dtype, the declaration's shape
  std::vector<Tensor> gradients;       // gradient dtype, accumulated over the micro-batches of a step
  std::vector<RandomStream> rounding;  // by which additions to a bf16 gradient are rounded
  // How a step's first backward reaches the gradients: it adds where a unit behind shows the same memory, whose backward came before.
  std::vector<GradientWrite> first_write;
  std::vector<PackedWeight> packed;  // at the first of the parameters that are one linear weight
};

/// `count` adjacent parameters as one: extents add up along axis 0 (q|k|v of shape [H, H] -> [3 H, H]).
Tensor fused(const std::vector<Tensor>& tensors, int first, int count);

/// A bucket's memory on this rank.
struct LocalBucket {
  const Bucket* bucket;
  Tensor weights, gradients;         // flat [elements], in the compute and the gradient type; where no parameter lies, zeros from the arena
  Tensor master;                     // flat [update_end - update_begin], in the master type
  bool master_is_weight;             // both types are alike: `master` is a range of `weights`
  int64_t update_begin, update_end;  // what this rank updates and keeps optimizer states for: all (ZeRO-0) or its shard (ZeRO-1)
  int64_t owned_begin, owned_end;    // its shard: what it sums, and counts in the norm
  bool counted;                      // false for the second use of a tied weight: the norm counts the sum once
};

/// The parameters of the units that this rank holds: memory in every type of the run's precision, gradients, exchange, gather. Knows
/// the ZeRO stage, so that nobody else asks.
/// Rajbhandari et al. 2020, arXiv:1910.02054.
class ShardedParams {
 public:
  /// `first_unit`, `last_unit` (excluded): the units of this pipeline stage.
  ShardedParams(const ShardMap& map, const Precision& precision, uint64_t seed, int first_unit, int last_unit, Mesh& mesh, Device& device);
  ShardedParams(const ShardedParams&) = delete;

  /// A unit's tensors, complete from here to `release` (ZeRO-3 will gather them; below it they always are).
  const UnitView& gather(int unit, Stream& stream);
  void release(int unit, Stream& stream);

  /// Sums the gradients of the units over ranks, from the last unit to the first, as the backward finished them; tied weights last.
  void reduce(Stream& stream);
  /// This rank's part of the exact norm.
  void add_norm(StepPartial* partial, const StepControl* control, Stream& stream);
  /// After the update: ZeRO-1 collects the shards that the other ranks updated; ZeRO-0 has them. Then derive_weights.
  void gather_weights(Stream& stream);
  /// Makes what is kept beside the weights, their packed forms, anew. Whoever changes weights otherwise than through this class calls it.
  void derive_weights(Stream& stream);

  const ShardMap& map() const { return map_; }
  const std::vector<LocalBucket>& buckets() const { return buckets_; }
  /// The local bucket of a parameter, or nullptr where another stage holds it.
  const LocalBucket* find(const ShardMap::Place& place) const;
  /// Initial values by name and logical element: the same on any layout. Host side, before the first step.
  void initialize(Device& device);
  /// Values by parameter name, of its shape, for weights and masters; a tied parameter takes those of the one it repeats.
  using ValuesOf = std::function<std::vector<float>(const std::string& name)>;
  void assign(const ValuesOf& values_of, Device& device);

 private:
  const ShardMap& map_;
  uint64_t seed_;
  int zero_;
  Mesh& mesh_;
  MatmulOps& matmul_;
  UpdateOps& update_;
  int first_unit_;
  std::vector<LocalBucket> buckets_;
  std::vector<UnitView> views_;
  std::vector<std::vector<LinearWeight>> packed_;  // by unit; empty where weights are not packed
  GradientExchange exchange_;
};

}  // namespace tessera
