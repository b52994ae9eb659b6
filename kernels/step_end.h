#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/step_control.h"
#include "kernels/update_ops.h"

// The arithmetic of a step's end that every device shares, so that all have the same bits: the fixed-point norm, what the ranks agree on, a
// rule's factors. Only + - * / sqrt in fp64, which are rounded alike everywhere, and integers; nvcc compiles it with -fmad=false.

#ifdef __CUDACC__
#define TESSERA_HOST_DEVICE __host__ __device__
#else
#define TESSERA_HOST_DEVICE
#endif

namespace tessera {

/// Elements of a gradient whose squares are summed in fp64 before the sum becomes a fixed-point integer: lane j of 16 adds elements j,
/// j + 16, ... of the block in order, then lane j of the lower half adds lane j of the upper one until one is left. What is missing in the
/// last block is 0. The squares of fp32 numbers are exact in fp64, so a device may fuse its multiplications and additions.
constexpr int64_t norm_block = 256, norm_lanes = 16;

/// 0 <= x < 2^40 in fixed point, rounded to nearest even: the 53 bits of x are shifted to where their unit is 2^-80.
TESSERA_HOST_DEVICE inline FixedSum fixed_from(double x) {
  const uint64_t word = std::bit_cast<uint64_t>(x);
  const FixedSum bits = (word & 0xFFFFFFFFFFFFF) | 0x10000000000000;  // x = bits 2^(exponent - 1075), exactly, unless x is far below a unit
  const int shift = static_cast<int>(word >> 52) - 1075 + fixed_sum_fraction_bits;
  if (shift >= 0) return bits << shift;
  if (shift < -54) return 0;  // less than half a unit
  const FixedSum whole = bits >> -shift, rest = bits - (whole << -shift), half = FixedSum{1} << (-shift - 1);
  return whole + (rest > half || (rest == half && whole % 2 != 0));
}

/// A non-negative fixed-point number as fp64, rounded to nearest even.
TESSERA_HOST_DEVICE inline double double_from(FixedSum sum) {
  uint64_t upper = static_cast<uint64_t>(sum >> 64), lower = static_cast<uint64_t>(sum);
  if (upper == 0) return static_cast<double>(lower) * 0x1p-80;
  // The upper 64 bits of the number; whether anything stood below them decides a tie and no more, so one bit says it.
  int shift = 0;
  for (; !(upper >> 63); shift++) {
    upper = upper << 1 | lower >> 63;
    lower <<= 1;
  }
  double value = static_cast<double>(upper | (lower != 0));
  value *= 0x1p-16;  // of 2^64 and 2^-80
  for (; shift > 0; shift--) value *= 0.5;
  return value;
}

/// A sum of non-negative fixed-point numbers that stays at the largest one when it would overflow: in any order and any grouping the same.
struct SaturatingSum {
  FixedSum value = 0;
  bool nonfinite = false;

  TESSERA_HOST_DEVICE void add(FixedSum term) {
    constexpr FixedSum largest = (FixedSum{1} << 126) - 1 + (FixedSum{1} << 126);
    nonfinite = nonfinite || term > largest - value;
    value = term > largest - value ? largest : value + term;
  }
  TESSERA_HOST_DEVICE void add(const SaturatingSum& other) {
    add(other.value);
    nonfinite = nonfinite || other.nonfinite;
  }
  /// The sum of squares of a block whose elements are `loss_scale` times the gradient's. A power of two: dividing the sum is exact, as
  /// dividing each element would be.
  TESSERA_HOST_DEVICE void add_block(double squares, double loss_scale) {
    squares /= loss_scale * loss_scale;
    if (squares < fixed_sum_limit) {
      add(fixed_from(squares));
    } else {
      nonfinite = true;  // NaN too
    }
  }
};

/// After a step that was applied or skipped.
TESSERA_HOST_DEVICE inline void adapt_loss_scale(StepControl& control, const LossScaling& scaling) {
  float factor = 1;
  if (control.skip) {
    control.overflows_left = control.overflows_left > 1 ? control.overflows_left - 1 : 0;
    if (control.overflows_left == 0) factor = 0.5f;
  } else if (++control.good_steps >= scaling.growth_steps) {
    factor = 2;
    control.overflows_left = scaling.hysteresis;
  }
  if (factor == 1) return;
  const float scale = control.loss_scale * factor;
  control.loss_scale = scale < scaling.least ? scaling.least : scale > scaling.most ? scaling.most : scale;
  control.good_steps = 0;
}

/// UpdateOps::agree_step: the partials of all ranks in rank order, then the control of the next step.
struct StepAgreement {
  SaturatingSum squares;
  double loss_sum = 0;
  int32_t stop_votes = 0;

  TESSERA_HOST_DEVICE void add(const StepPartial& partial) {
    squares.add(SaturatingSum{partial.norm_squares, partial.nonfinite != 0});
    loss_sum += partial.loss_sum;
    stop_votes += partial.stop_vote;
  }
  /// On a skipped step the norm counts only the blocks that were finite.
  TESSERA_HOST_DEVICE void finish(StepControl& control, float clip, const LossScaling& scaling) const {
    const double norm = std::sqrt(double_from(squares.value));
    control.skip = squares.nonfinite || !(loss_sum - loss_sum == 0);  // infinite or NaN
    control.skipped_in_a_row = control.skip ? control.skipped_in_a_row + 1 : 0;
    control.applied_steps += !control.skip;
    control.step++;
    control.loss_sum = loss_sum;
    control.gradient_norm = norm;
    control.clip_scale = clip > 0 && norm > clip ? static_cast<float>(clip / norm) : 1.0f;
    control.gradient_factor = control.clip_scale / control.loss_scale;
    control.stop_votes = stop_votes;
    if (scaling.dynamic) adapt_loss_scale(control, scaling);
  }
};

/// A rule's factors in one segment and step; fp32, computed in fp64.
struct UpdateFactors {
  float gradient_factor, learning_rate;
  float decay;  // AdamW: learning rate times weight decay
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float m_scale;  // learning rate / (1 - beta1^t)
  float v_scale;  // 1 / sqrt(1 - beta2^t), after the root
  float epsilon;
};

/// base^exponent by squaring; the libraries' powers differ in their last bits.
TESSERA_HOST_DEVICE inline double power_of(double base, int64_t exponent) {
  double power = 1;
  for (; exponent > 0; exponent /= 2, base *= base) {
    if (exponent % 2 != 0) power *= base;
  }
  return power;
}

/// All but the decay, which is a segment's.
TESSERA_HOST_DEVICE inline UpdateFactors factors_of(const UpdateHyper& hyper, const StepControl& control) {
  const double learning_rate = hyper.learning_rate, beta1 = hyper.beta1, beta2 = hyper.beta2;
  const double m_left = 1 - power_of(beta1, control.applied_steps), v_left = 1 - power_of(beta2, control.applied_steps);
  return {.gradient_factor = control.gradient_factor,
          .learning_rate = hyper.learning_rate,
          .decay = 0,
          .beta1 = hyper.beta1,
          .one_minus_beta1 = static_cast<float>(1 - beta1),
          .beta2 = hyper.beta2,
          .one_minus_beta2 = static_cast<float>(1 - beta2),
          .m_scale = static_cast<float>(learning_rate / m_left),
          .v_scale = static_cast<float>(1 / std::sqrt(v_left)),
          .epsilon = hyper.epsilon};
}
inline float decay_of(UpdateRule rule, const UpdateHyper& hyper, float decay) {
  return rule == UpdateRule::AdamW ? static_cast<float>(static_cast<double>(hyper.learning_rate) * decay) : decay;
}

}  // namespace tessera
