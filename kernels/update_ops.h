#pragma once
#include <span>

#include "kernels/step_control.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// A run of elements [begin, end) of a shard that one rule updates.
struct UpdateSegment {
  int64_t begin, end;
  float decay;  // weight decay of this run
};

struct AdamWHyper {
  float learning_rate, beta1, beta2, epsilon;
};

/// What happens once a step, on flat shards. `control` and `partial` are StepControl and StepPartial in device memory.
class UpdateOps {
 public:
  virtual ~UpdateOps() = default;
  /// Decoupled weight decay with bias correction by control.applied_steps (already counting this step).    Loshchilov & Hutter 2019, arXiv:1711.05101
  ///   g = clip_scale gradient;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
  ///   w -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon) + decay w)
  /// weight, m, v, gradient [n] fp32. Returns early when control.skip is set. Elements outside all segments (padding) are left alone.
  void adamw(Tensor weight, Tensor m, Tensor v, Tensor gradient, std::span<const UpdateSegment> segments, AdamWHyper hyper,
             const StepControl* control, Stream& stream);
  /// partial.norm_squares += the sum of squares of gradient [n]: blocks of 256 elements, each summed in fp64, rounded to fixed point
  /// (nearest even), added as integers. Sets partial.nonfinite where a block sum is not finite or reaches 2^40.
  void gradient_norm(StepPartial* partial, Tensor gradient, Stream& stream);
  /// partial.loss_sum += losses in order, in fp64; a loss that is not finite sets nonfinite.   losses [R] fp32.
  void add_loss(StepPartial* partial, Tensor losses, Stream& stream);
  /// partial = 0 with `stop_vote`.
  void begin_step(StepPartial* partial, int32_t stop_vote, Stream& stream);
  /// control of the next step from the partials of all ranks, in rank order: loss sum, norm = sqrt(sum of squares),
  /// clip_scale = min(1, clip / norm) (clip <= 0: never), skip, counters.   partials [ranks] in device memory.
  void agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, Stream& stream);

 private:
  virtual void do_adamw(Tensor weight, Tensor m, Tensor v, Tensor gradient, std::span<const UpdateSegment> segments, AdamWHyper hyper,
                        const StepControl* control, Stream& stream) = 0;
  virtual void do_gradient_norm(StepPartial* partial, Tensor gradient, Stream& stream) = 0;
  virtual void do_add_loss(StepPartial* partial, Tensor losses, Stream& stream) = 0;
  virtual void do_begin_step(StepPartial* partial, int32_t stop_vote, Stream& stream) = 0;
  virtual void do_agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, Stream& stream) = 0;
};

}  // namespace tessera
