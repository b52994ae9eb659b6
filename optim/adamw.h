#pragma once
#include <string>
#include <vector>

#include "kernels/device.h"
#include "parallel/sharded_params.h"

namespace tessera {

/// What an optimizer keeps for each parameter: fp32 here, of the parameter's own shape.
struct OptimizerStateDecl {
  std::string name;  // "m"
  DType dtype;
};

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
};

/// Decoupled weight decay on matrices and embeddings (ParamDecl::decay), none on biases and norms.
/// Loshchilov & Hutter 2019, arXiv:1711.05101
class AdamW {
 public:
  static std::vector<OptimizerStateDecl> states() { return {{"m", DType::f32}, {"v", DType::f32}}; }
  /// Element-wise: any multiple of 256 elements may be cut.
  static Grain grain(const ParamDecl&) { return Grain::Block; }

  /// Takes states for the range of each bucket that this rank updates.
  AdamW(const AdamWConfig& config, ShardedParams& params, Device& device);
  AdamW(const AdamW&) = delete;
  /// One flat launch a bucket, on gradients that ShardedParams::reduce has summed. Returns early on the device when control says skip.
  void update(double learning_rate, const StepControl* control, Stream& stream);

  /// State `s` of bucket `b` (index into ShardedParams::buckets): flat [update_end - update_begin].
  Tensor state(size_t b, size_t s) const { return states_[b][s]; }

 private:
  AdamWConfig config_;
  ShardedParams& params_;
  UpdateOps& ops_;
  std::vector<std::vector<Tensor>> states_;
  std::vector<std::vector<UpdateSegment>> segments_;
};

}  // namespace tessera
