#include "kernels/update_ops.h"

#include "base/error.h"
#include "kernels/expect.h"

namespace tessera {

void UpdateOps::adamw(Tensor weight, Tensor m, Tensor v, Tensor gradient, std::span<const UpdateSegment> segments, AdamWHyper hyper,
                      const StepControl* control, Stream& stream) {
  const int64_t n = weight.elements();
  expect_whole(
      "adamw",
      {{"weight", weight, {n}, DType::f32}, {"m", m, {n}, DType::f32}, {"v", v, {n}, DType::f32}, {"gradient", gradient, {n}, DType::f32}});
  int64_t updated = 0, end = 0;
  for (const UpdateSegment& segment : segments) {
    invariant(segment.begin >= end && segment.end >= segment.begin && segment.end <= n,
              "adamw: segments must be in order, apart and inside");
    end = segment.end;
    updated += segment.end - segment.begin;
  }
  run_op(stream,
         {.kind = OpKind::AdamW,
          .shape = {{n, updated}, DType::f32},
          .flops = 16.0 * updated,
          .read_bytes = 4 * updated * bytes_of(DType::f32),
          .write_bytes = 3 * updated * bytes_of(DType::f32)},
         [&] { do_adamw(weight, m, v, gradient, segments, hyper, control, stream); });
}

void UpdateOps::gradient_norm(StepPartial* partial, Tensor gradient, Stream& stream) {
  const int64_t n = gradient.elements();
  expect_whole("gradient_norm", {{"gradient", gradient, {n}, DType::f32}});
  run_op(stream, {.kind = OpKind::GradientNorm, .shape = {{n}, DType::f32}, .flops = 2.0 * n, .read_bytes = gradient.bytes()},
         [&] { do_gradient_norm(partial, gradient, stream); });
}

void UpdateOps::add_loss(StepPartial* partial, Tensor losses, Stream& stream) {
  const int64_t R = losses.elements();
  expect_whole("add_loss", {{"losses", losses, {R}, DType::f32}});
  run_op(stream, {.kind = OpKind::AddLoss, .shape = {{R}, DType::f32}, .flops = 1.0 * R, .read_bytes = losses.bytes()},
         [&] { do_add_loss(partial, losses, stream); });
}

void UpdateOps::begin_step(StepPartial* partial, int32_t stop_vote, Stream& stream) {
  run_op(stream, {.kind = OpKind::BeginStep, .shape = {}, .write_bytes = sizeof(StepPartial)},
         [&] { do_begin_step(partial, stop_vote, stream); });
}

void UpdateOps::agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, Stream& stream) {
  invariant(ranks >= 1, "agree_step: a step has at least one rank");
  run_op(stream,
         {.kind = OpKind::AgreeStep,
          .shape = {{ranks}, DType::f64},
          .flops = 2.0 * ranks,
          .read_bytes = static_cast<int64_t>(sizeof(StepControl) + ranks * sizeof(StepPartial)),
          .write_bytes = sizeof(StepControl)},
         [&] { do_agree_step(control, partials, ranks, clip, stream); });
}

}  // namespace tessera
