#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device.h"
#include "parallel/sharded_params.h"

namespace tessera {

/// "sgd", "momentum", "adagrad", "adam", "adamw"; InternalError for another name.
UpdateRule update_rule_named(std::string_view name);

/// What an optimizer keeps for each parameter, in the parameter's own shape.
struct OptimizerStateDecl {
  std::string name;  // "m"
  DType dtype;
};

struct OptimizerSettings {
  UpdateRule rule = UpdateRule::AdamW;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;  // on matrices and embeddings (ParamDecl::decay), none on biases and norms
  uint64_t seed = 1;          // of stochastic rounding
  DType moment = DType::f32;  // of the states: fp32 or bf16
};

/// The parameters of a bucket inside [begin, end) of it, as segments relative to `begin`. The two uses of a tied weight draw the same
/// random numbers, so that they stay alike. `merge`: neighbours with the same decay are one segment, which loses where parameters begin;
/// right where nothing is rounded stochastically.
std::vector<UpdateSegment> update_segments(const ShardMap& map, const Bucket& bucket, int64_t begin, int64_t end,
                                           const OptimizerSettings& settings, bool merge);

/// One of the update rules of kernels/update_ops.h on the ranges of the buckets that this rank updates.
class Optimizer {
 public:
  /// momentum: {"momentum"}; adagrad: {"sum"}; adam and adamw: {"m", "v"}; sgd keeps none.
  static std::vector<OptimizerStateDecl> states(UpdateRule rule, DType moment);
  /// Element-wise: any multiple of 256 elements may be cut.
  static Grain grain(const ParamDecl&) { return Grain::Block; }

  /// Takes states for the range of each bucket that this rank updates.
  Optimizer(const OptimizerSettings& settings, ShardedParams& params, Device& device);
  Optimizer(const Optimizer&) = delete;
  /// One flat launch a bucket, on gradients that ShardedParams::reduce has summed; writes the weights in use as well. Random numbers follow
  /// `step`. Returns early on the device when control says skip.
  void update(double learning_rate, int64_t step, const StepControl* control, Stream& stream);

  std::vector<OptimizerStateDecl> states() const { return states(settings_.rule, settings_.moment); }
  /// State `s` of bucket `b` (index into ShardedParams::buckets): flat [update_end - update_begin].
  Tensor state(size_t b, size_t s) const { return states_[b][s]; }

 private:
  OptimizerSettings settings_;
  ShardedParams& params_;
  UpdateOps& ops_;
  std::vector<std::vector<Tensor>> states_;
  std::vector<std::vector<UpdateSegment>> segments_;
};

}  // namespace tessera
