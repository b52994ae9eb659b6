// The end of a step on the CPU: the exact norm, the loss, what the ranks agree on, and the update's cut between threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/update_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/step_control.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

double block_squares_loop(const float* block) {
  constexpr int64_t lanes = 16;
  const hn::CappedTag<double, lanes> d;
  const hn::Rebind<float, decltype(d)> narrow;
  const int64_t width = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN double sums[lanes];
  for (int64_t lane = 0; lane < lanes; lane += width) {
    auto sum = hn::Zero(d);
    for (int64_t i = lane; i < norm_block; i += lanes) {
      const auto value = hn::PromoteTo(d, hn::LoadU(narrow, block + i));
      sum = hn::MulAdd(value, value, sum);
    }
    hn::Store(sum, d, sums + lane);
  }
  for (int64_t half = lanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(block_squares_loop);

double block_squares(const float* block) { return HWY_DYNAMIC_DISPATCH(block_squares_loop)(block); }

namespace {

/// 0 <= x < 2^40 in fixed point, rounded to nearest even: the 53 bits of x are shifted to where their unit is 2^-80.
FixedSum fixed_from(double x) {
  if (x == 0) return 0;
  int exponent;
  const FixedSum bits = static_cast<int64_t>(std::ldexp(std::frexp(x, &exponent), 53));  // x = bits 2^(exponent - 53), exactly
  const int shift = exponent - 53 + fixed_sum_fraction_bits;
  if (shift >= 0) return bits << shift;
  if (shift < -54) return 0;  // less than half a unit
  const FixedSum whole = bits >> -shift, rest = bits - (whole << -shift), half = FixedSum{1} << (-shift - 1);
  return whole + (rest > half || (rest == half && whole % 2 != 0));
}

/// A sum of non-negative fixed-point numbers that stays at the largest one when it would overflow.
struct SaturatingSum {
  FixedSum value = 0;
  bool nonfinite = false;

  void add(FixedSum term) {
    if (!__builtin_add_overflow(value, term, &value)) return;
    value = (FixedSum{1} << 126) - 1 + (FixedSum{1} << 126);
    nonfinite = true;
  }
};

SaturatingSum squares_of_blocks(const float* gradient, int64_t n, int64_t first_block, int64_t last_block) {
  SaturatingSum sum;
  for (int64_t block = first_block; block < last_block; block++) {
    const int64_t begin = block * norm_block, elements = std::min(norm_block, n - begin);
    double squares;
    if (elements == norm_block) {
      squares = block_squares(gradient + begin);
    } else {
      float padded[norm_block] = {};
      std::memcpy(padded, gradient + begin, static_cast<size_t>(elements) * sizeof(float));
      squares = block_squares(padded);
    }
    if (squares < fixed_sum_limit) {
      sum.add(fixed_from(squares));
    } else {
      sum.nonfinite = true;  // NaN too
    }
  }
  return sum;
}

class CpuUpdateOps : public UpdateOps {
 public:
  explicit CpuUpdateOps(int threads) : threads_(threads) {}

 private:
  void do_adamw(Tensor weight, Tensor m, Tensor v, Tensor gradient, std::span<const UpdateSegment> segments, AdamWHyper hyper,
                const StepControl* control, Stream&) override {
    if (control->skip) return;
    const double t = static_cast<double>(control->applied_steps), learning_rate = hyper.learning_rate;
    const double beta1 = hyper.beta1, beta2 = hyper.beta2;
    const AdamWFactors common = {.clip_scale = control->clip_scale,
                                 .beta1 = hyper.beta1,
                                 .one_minus_beta1 = static_cast<float>(1 - beta1),
                                 .beta2 = hyper.beta2,
                                 .one_minus_beta2 = static_cast<float>(1 - beta2),
                                 .m_scale = static_cast<float>(learning_rate / (1 - std::pow(beta1, t))),
                                 .v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t))),
                                 .epsilon = hyper.epsilon,
                                 .decay = 0};
    parallel_ranges(weight.elements(), floats_of_a_line, 1, threads_, [&](int64_t begin, int64_t end) {
      for (const UpdateSegment& segment : segments) {
        const int64_t from = std::max(begin, segment.begin), to = std::min(end, segment.end);
        if (from >= to) continue;
        AdamWFactors factors = common;
        factors.decay = static_cast<float>(learning_rate * segment.decay);
        adamw_range(weight.as<float>() + from, m.as<float>() + from, v.as<float>() + from, gradient.as<float>() + from, to - from, factors);
      }
    });
  }

  void do_gradient_norm(StepPartial* partial, Tensor gradient, Stream&) override {
    const int64_t n = gradient.elements();
    SaturatingSum total{partial->norm_squares, partial->nonfinite != 0};
    std::mutex mutex;  // who comes first does not matter: integers
    parallel_ranges((n + norm_block - 1) / norm_block, 1, norm_block, threads_, [&](int64_t begin, int64_t end) {
      const SaturatingSum part = squares_of_blocks(gradient.as<float>(), n, begin, end);
      const std::lock_guard lock(mutex);
      total.add(part.value);
      total.nonfinite |= part.nonfinite;
    });
    partial->norm_squares = total.value;
    partial->nonfinite = total.nonfinite;
  }

  void do_add_loss(StepPartial* partial, Tensor losses, Stream&) override {
    const float* loss = losses.as<float>();
    for (int64_t r = 0; r < losses.elements(); r++) {
      partial->loss_sum += loss[r];
      if (!std::isfinite(loss[r])) partial->nonfinite = 1;
    }
  }

  void do_begin_step(StepPartial* partial, int32_t stop_vote, Stream&) override {
    *partial = {};
    partial->stop_vote = stop_vote;
  }

  /// On a skipped step the norm counts only the blocks that were finite.
  void do_agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, Stream&) override {
    SaturatingSum squares;
    double loss_sum = 0;
    int32_t stop_votes = 0;
    for (int rank = 0; rank < ranks; rank++) {
      squares.add(partials[rank].norm_squares);
      squares.nonfinite |= partials[rank].nonfinite != 0;
      loss_sum += partials[rank].loss_sum;
      stop_votes += partials[rank].stop_vote;
    }
    const double norm = std::sqrt(std::ldexp(static_cast<double>(squares.value), -fixed_sum_fraction_bits));
    control->skip = squares.nonfinite || !std::isfinite(loss_sum);
    control->skipped_in_a_row = control->skip ? control->skipped_in_a_row + 1 : 0;
    control->applied_steps += !control->skip;
    control->step++;
    control->loss_sum = loss_sum;
    control->gradient_norm = norm;
    control->clip_scale = clip > 0 && norm > clip ? static_cast<float>(clip / norm) : 1.0f;
    control->stop_votes = stop_votes;
  }

  int threads_;
};

}  // namespace

std::unique_ptr<UpdateOps> make_cpu_update_ops(int threads) { return std::make_unique<CpuUpdateOps>(threads); }

}  // namespace tessera
#endif
