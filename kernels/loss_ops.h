#pragma once
#include "kernels/step_control.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// Softmax cross-entropy over a chunk of rows. R rows, V vocabulary. logits are fp32, bf16 or fp16; sums and losses are fp32.
class LossOps {
 public:
  virtual ~LossOps() = default;
  /// losses[r] = log sum exp(logits[r]) - logits[r][targets[r]];
  /// logits[r] becomes scale control.loss_scale (softmax(logits[r]) - one_hot(targets[r])).
  /// losses [R] fp32, logits [R, V] in place, targets [R] int32 in [0, V).
  void cross_entropy(Tensor losses, Tensor logits, Tensor targets, float scale, const StepControl* control, Stream& stream);
  /// The losses alone; logits are kept.
  void cross_entropy_loss(Tensor losses, Tensor logits, Tensor targets, Stream& stream);

 private:
  virtual void do_cross_entropy(Tensor losses, Tensor logits, Tensor targets, float scale, const StepControl* control, Stream& stream) = 0;
  virtual void do_cross_entropy_loss(Tensor losses, Tensor logits, Tensor targets, Stream& stream) = 0;
};

}  // namespace tessera
