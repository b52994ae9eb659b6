#pragma once
#include <cstdint>

namespace tessera {

/// The exact sum of squares: a signed 128-bit fixed-point integer with 80 fraction bits. Integers add with carry, so order does not matter.
__extension__ typedef __int128 FixedSum;
constexpr int fixed_sum_fraction_bits = 80;
/// A block sum that reaches this, or is not finite, sets the non-finite flag.
constexpr double fixed_sum_limit = 1099511627776.0;  // 2^40

/// What one rank knows of a step before the ranks have met. Lives on the device; zeroed by begin_step.
struct StepPartial {
  FixedSum norm_squares = 0;  // of the unscaled gradients this rank owns, each tied pair once
  double loss_sum = 0;        // over this rank's tokens of the step, micro-batches in order
  int32_t nonfinite = 0;
  int32_t stop_vote = 0;  // of this rank's host, given to begin_step
};

/// What all ranks agree on; the same bits on each. Lives on the device; kernels read it and return early on a skipped step.
/// The host reads the copy of step s at the start of step s + 2, so nothing waits.
struct StepControl {
  int64_t step = 0;           // steps finished, skipped ones included
  int64_t applied_steps = 0;  // Adam's bias correction follows this
  int64_t skipped_in_a_row = 0;
  double loss_sum = 0;       // over all ranks in rank order; divide by the tokens of a step
  double gradient_norm = 0;  // before clipping
  float clip_scale = 1;
  float loss_scale = 1;        // of the coming step: a power of two
  float gradient_factor = 1;   // clip_scale / the loss scale of the step that ended: what the update multiplies gradients by
  int32_t good_steps = 0;      // applied since the loss scale changed
  int32_t overflows_left = 0;  // until the loss scale halves; LossScaling::hysteresis of them at first
  int32_t skip = 0;            // this step's update is skipped: something was not finite
  int32_t stop_votes = 0;
};

/// Dynamic loss scaling for fp16: doubles after `growth_steps` applied steps, halves on the `hysteresis`th overflow since it last grew and
/// on every one after that, never leaves [least, most]. Not dynamic: the scale stays as it is.
/// Micikevicius et al. 2018, arXiv:1710.03740
struct LossScaling {
  bool dynamic = false;
  float initial = 1;  // 65536 for fp16
  int32_t growth_steps = 1000, hysteresis = 2;
  float least = 1, most = 16777216;
};

}  // namespace tessera
