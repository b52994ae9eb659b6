#include "kernels/update_ops.h"

#include "base/error.h"
#include "kernels/expect.h"

namespace tessera {

namespace {

/// What a rule is called and costs. FLOPs of an element; a square root and a division count as one each.
struct RuleCost {
  OpKind kind;
  int states;
  double flops;
};

RuleCost cost_of(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::Sgd:
      return {OpKind::Sgd, 0, 5};
    case UpdateRule::Momentum:
      return {OpKind::Momentum, 1, 7};
    case UpdateRule::AdaGrad:
      return {OpKind::AdaGrad, 1, 10};
    case UpdateRule::Adam:
      return {OpKind::Adam, 2, 16};
    case UpdateRule::AdamW:
      return {OpKind::AdamW, 2, 16};
  }
  throw InternalError("there is no such update rule");
}

/// A tensor of n master weights, gradients or moments: fp32 or bf16.
void expect_state(const char* op, const char* name, const Tensor& tensor, int64_t n) {
  expect_whole(op, {{name, tensor, {n}, tensor.dtype == DType::bf16 ? DType::bf16 : DType::f32}});
}

}  // namespace

void UpdateOps::update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper, int64_t step,
                       const StepControl* control, Stream& stream) {
  const RuleCost cost = cost_of(rule);
  const char* name = name_of(cost.kind);
  const auto& [master, weight, gradient, first, second] = shard;
  const int64_t n = master.elements();
  expect_state(name, "master", master, n);
  expect_state(name, "gradient", gradient, n);
  if (cost.states >= 1) expect_state(name, "first", first, n);
  if (cost.states >= 2) expect_state(name, "second", second, n);
  invariant((cost.states >= 1 || first.empty()) && (cost.states >= 2 || second.empty()),
            "an update rule got a state that it does not keep");
  invariant(weight.empty() || is_compute_type(weight.dtype), "an update writes weights in fp32, bf16 or fp16");
  expect_whole(name, {{"weight", weight, {n}, weight.dtype, optional}});
  int64_t updated = 0, end = 0;
  for (const UpdateSegment& segment : segments) {
    invariant(segment.begin >= end && segment.end >= segment.begin && segment.end <= n && segment.first >= 0,
              "update: segments must be in order, apart and inside");
    end = segment.end;
    updated += segment.end - segment.begin;
  }
  const int64_t kept =
      bytes_of(master.dtype) + (cost.states >= 1 ? bytes_of(first.dtype) : 0) + (cost.states >= 2 ? bytes_of(second.dtype) : 0);
  run_op(stream,
         {.kind = cost.kind,
          .shape = {{n, updated}, master.dtype},
          .flops = cost.flops * static_cast<double>(updated),
          .read_bytes = (kept + bytes_of(gradient.dtype)) * updated,
          .write_bytes = (kept + (weight.empty() ? 0 : bytes_of(weight.dtype))) * updated},
         [&] { do_update(rule, shard, segments, hyper, step, control, stream); });
}

void UpdateOps::gradient_norm(StepPartial* partial, Tensor gradient, const StepControl* control, Stream& stream) {
  const int64_t n = gradient.elements();
  expect_state("gradient_norm", "gradient", gradient, n);
  run_op(
      stream,
      {.kind = OpKind::GradientNorm, .shape = {{n}, gradient.dtype}, .flops = 2.0 * static_cast<double>(n), .read_bytes = gradient.bytes()},
      [&] { do_gradient_norm(partial, gradient, control, stream); });
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

void UpdateOps::agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, const LossScaling& scaling,
                           Stream& stream) {
  invariant(ranks >= 1, "agree_step: a step has at least one rank");
  run_op(stream,
         {.kind = OpKind::AgreeStep,
          .shape = {{ranks}, DType::f64},
          .flops = 2.0 * ranks,
          .read_bytes = static_cast<int64_t>(sizeof(StepControl) + ranks * sizeof(StepPartial)),
          .write_bytes = sizeof(StepControl)},
         [&] { do_agree_step(control, partials, ranks, clip, scaling, stream); });
}

}  // namespace tessera
