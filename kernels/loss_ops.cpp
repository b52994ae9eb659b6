#include "kernels/loss_ops.h"

#include "kernels/expect.h"

namespace tessera {

// An exponential counts as one FLOP: per logit a maximum, a difference, an exponential and a sum, and two more for the gradient.

void LossOps::cross_entropy(Tensor losses, Tensor logits, Tensor targets, float scale, const StepControl* control, Stream& stream) {
  const int64_t R = logits.rows(), V = logits.columns();
  expect_compute_type("cross_entropy", logits.dtype);
  expect("cross_entropy",
         {{"losses", losses, {R}, DType::f32}, {"logits", logits, {R, V}, logits.dtype}, {"targets", targets, {R}, DType::i32}});
  run_op(stream,
         {.kind = OpKind::CrossEntropy,
          .shape = {{R, V}, logits.dtype},
          .flops = 6.0 * R * V,
          .read_bytes = logits.bytes() + targets.bytes(),
          .write_bytes = logits.bytes() + losses.bytes()},
         [&] { do_cross_entropy(losses, logits, targets, scale, control, stream); });
}

void LossOps::cross_entropy_loss(Tensor losses, Tensor logits, Tensor targets, Stream& stream) {
  const int64_t R = logits.rows(), V = logits.columns();
  expect_compute_type("cross_entropy_loss", logits.dtype);
  expect("cross_entropy_loss",
         {{"losses", losses, {R}, DType::f32}, {"logits", logits, {R, V}, logits.dtype}, {"targets", targets, {R}, DType::i32}});
  run_op(stream,
         {.kind = OpKind::CrossEntropyLoss,
          .shape = {{R, V}, logits.dtype},
          .flops = 4.0 * R * V,
          .read_bytes = logits.bytes() + targets.bytes(),
          .write_bytes = losses.bytes()},
         [&] { do_cross_entropy_loss(losses, logits, targets, stream); });
}

}  // namespace tessera
