#pragma once
#include <span>

#include "base/random.h"
#include "kernels/step_control.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

enum class UpdateRule : uint8_t { Sgd, Momentum, AdaGrad, Adam, AdamW };

/// A run of elements [begin, end) of a shard that one rule updates: a piece of one parameter, or neighbours that are treated alike.
struct UpdateSegment {
  int64_t begin, end;
  float decay;            // weight decay of this run
  RandomStream rounding;  // of the parameter; its step is replaced by the step that runs
  int64_t first;          // element of the parameter that stands at `begin`
};

/// beta1: momentum, or decay of the first moment; beta2: decay of the second moment.
struct UpdateHyper {
  float learning_rate, beta1, beta2, epsilon;
};

/// The flat shard that one launch updates; n elements. States that a rule does not keep are empty.
struct UpdateShard {
  Tensor master;    // [n] fp32 or bf16: the weights that the rule changes
  Tensor weight;    // [n] their copy in the compute type, rounded to nearest in the same pass; empty where the master is the weight
  Tensor gradient;  // [n] fp32 or bf16
  Tensor first;     // [n] fp32 or bf16: momentum, sum of squares (AdaGrad) or first moment
  Tensor second;    // [n] fp32 or bf16: second moment
};

/// What happens once a step, on flat shards. `control` and `partial` are StepControl and StepPartial in device memory.
class UpdateOps {
 public:
  virtual ~UpdateOps() = default;
  /// One pass over a shard: with g = control.gradient_factor gradient, t = control.applied_steps (already counting this step), in fp32:
  ///   Sgd       g += decay w;  w -= lr g
  ///   Momentum  g += decay w;  m = b1 m + g;  w -= lr m                                    as PyTorch's SGD, dampening 0
  ///   AdaGrad   g += decay w;  s = s + g^2;  w -= lr g / (sqrt(s) + epsilon)               Duchi et al. 2011
  ///   Adam      g += decay w;  then as AdamW without its decay                              Kingma & Ba 2015, arXiv:1412.6980
  ///   AdamW     m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
  ///             w -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon) + decay w)       Loshchilov & Hutter 2019, arXiv:1711.05101
  /// What is kept in bf16 is rounded stochastically: element e of a parameter by half words 4 e (master), 4 e + 1 (first) and 4 e + 2
  /// (second) of its segment's stream at `step`. Returns early when control.skip is set; elements outside all segments are left alone.
  void update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper, int64_t step,
              const StepControl* control, Stream& stream);
  /// partial.norm_squares += the sum of squares of gradient / control.loss_scale [n], fp32 or bf16: blocks of 256 elements, each summed in
  /// fp64, rounded to fixed point (nearest even), added as integers. Sets partial.nonfinite where a block sum is not finite or reaches 2^40.
  void gradient_norm(StepPartial* partial, Tensor gradient, const StepControl* control, Stream& stream);
  /// partial.loss_sum += losses in order, in fp64; a loss that is not finite sets nonfinite.   losses [R] fp32.
  void add_loss(StepPartial* partial, Tensor losses, Stream& stream);
  /// partial = 0 with `stop_vote`.
  void begin_step(StepPartial* partial, int32_t stop_vote, Stream& stream);
  /// control of the next step from the partials of all ranks, in rank order: loss sum, norm = sqrt(sum of squares),
  /// clip_scale = min(1, clip / norm) (clip <= 0: never), skip, counters, loss scale.   partials [ranks] in device memory.
  void agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, const LossScaling& scaling, Stream& stream);

 private:
  virtual void do_update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper,
                         int64_t step, const StepControl* control, Stream& stream) = 0;
  virtual void do_gradient_norm(StepPartial* partial, Tensor gradient, const StepControl* control, Stream& stream) = 0;
  virtual void do_add_loss(StepPartial* partial, Tensor losses, Stream& stream) = 0;
  virtual void do_begin_step(StepPartial* partial, int32_t stop_vote, Stream& stream) = 0;
  virtual void do_agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, const LossScaling& scaling,
                             Stream& stream) = 0;
};

}  // namespace tessera
