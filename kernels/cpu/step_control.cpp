// The end of a step on the CPU: the exact norm, the loss, what the ranks agree on, and the update's cut between threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/update_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/step_control.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

namespace {

template <class T>
double block_squares_loop(const T* block) {
  constexpr int64_t lanes = 16;
  const hn::CappedTag<double, lanes> d;
  const hn::Rebind<float, decltype(d)> narrow;
  const int64_t width = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN double sums[lanes];
  for (int64_t lane = 0; lane < lanes; lane += 2 * width) {  // two sums at a time hide the latency of the additions
    auto sum = hn::Zero(d), next_sum = sum;
    for (int64_t i = lane; i < norm_block; i += lanes) {
      const auto value = hn::PromoteTo(d, load(narrow, block + i)), next = hn::PromoteTo(d, load(narrow, block + i + width));
      sum = hn::MulAdd(value, value, sum);
      next_sum = hn::MulAdd(next, next, next_sum);
    }
    hn::Store(sum, d, sums + lane);
    hn::Store(next_sum, d, sums + lane + width);
  }
  for (int64_t half = lanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

double block_squares_f32(const float* block) { return block_squares_loop(block); }
double block_squares_bf16(const bf16_t* block) { return block_squares_loop(block); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(block_squares_f32);
HWY_EXPORT(block_squares_bf16);

double block_squares(const float* block) { return HWY_DYNAMIC_DISPATCH(block_squares_f32)(block); }
double block_squares(const bf16_t* block) { return HWY_DYNAMIC_DISPATCH(block_squares_bf16)(block); }

namespace {

/// 0 <= x < 2^40 in fixed point, rounded to nearest even: the 53 bits of x are shifted to where their unit is 2^-80.
FixedSum fixed_from(double x) {
  const uint64_t word = std::bit_cast<uint64_t>(x);
  const FixedSum bits = (word & 0xFFFFFFFFFFFFF) | 0x10000000000000;  // x = bits 2^(exponent - 1075), exactly, unless x is far below a unit
  const int shift = static_cast<int>(word >> 52) - 1075 + fixed_sum_fraction_bits;
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

/// Of the gradient over `loss_scale`, a power of two: the sums are divided, exactly, where the elements would be.
template <class T>
SaturatingSum squares_of_blocks(const T* gradient, double loss_scale, int64_t n, int64_t first_block, int64_t last_block) {
  SaturatingSum sum;
  for (int64_t block = first_block; block < last_block; block++) {
    const int64_t begin = block * norm_block, elements = std::min(norm_block, n - begin);
    double squares;
    if (elements == norm_block) {
      squares = block_squares(gradient + begin);
    } else {
      T padded[norm_block] = {};
      std::copy_n(gradient + begin, elements, padded);
      squares = block_squares(padded);
    }
    squares /= loss_scale * loss_scale;
    if (squares < fixed_sum_limit) {
      sum.add(fixed_from(squares));
    } else {
      sum.nonfinite = true;  // NaN too
    }
  }
  return sum;
}

UpdateFactors factors_of(UpdateHyper hyper, const StepControl& control) {
  const double t = static_cast<double>(control.applied_steps), learning_rate = hyper.learning_rate;
  const double beta1 = hyper.beta1, beta2 = hyper.beta2;
  return {.gradient_factor = control.gradient_factor,
          .learning_rate = hyper.learning_rate,
          .decay = 0,
          .beta1 = hyper.beta1,
          .one_minus_beta1 = static_cast<float>(1 - beta1),
          .beta2 = hyper.beta2,
          .one_minus_beta2 = static_cast<float>(1 - beta2),
          .m_scale = static_cast<float>(learning_rate / (1 - std::pow(beta1, t))),
          .v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t))),
          .epsilon = hyper.epsilon};
}

/// After a step that was applied or skipped.
void adapt_loss_scale(StepControl& control, const LossScaling& scaling) {
  float factor = 1;
  if (control.skip) {
    control.overflows_left = std::max(control.overflows_left - 1, 0);
    if (control.overflows_left == 0) factor = 0.5f;
  } else if (++control.good_steps >= scaling.growth_steps) {
    factor = 2;
    control.overflows_left = scaling.hysteresis;
  }
  if (factor == 1) return;
  control.loss_scale = std::clamp(control.loss_scale * factor, scaling.least, scaling.most);
  control.good_steps = 0;
}

class CpuUpdateOps : public UpdateOps {
 public:
  explicit CpuUpdateOps(int threads) : threads_(threads) {}

 private:
  void do_update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper, int64_t step,
                 const StepControl* control, Stream&) override {
    if (control->skip) return;
    const UpdateFactors common = factors_of(hyper, *control);
    parallel_ranges(shard.master.elements(), 2 * floats_of_a_line, 1, threads_, [&](int64_t begin, int64_t end) {
      for (const UpdateSegment& segment : segments) {
        const int64_t from = std::max(begin, segment.begin), to = std::min(end, segment.end);
        if (from >= to) continue;
        UpdateFactors factors = common;
        factors.decay =
            rule == UpdateRule::AdamW ? static_cast<float>(static_cast<double>(hyper.learning_rate) * segment.decay) : segment.decay;
        update_range(rule, shard, from, to, factors, segment.rounding.at(static_cast<uint64_t>(step)),
                     segment.first + from - segment.begin);
      }
    });
  }

  void do_gradient_norm(StepPartial* partial, Tensor gradient, const StepControl* control, Stream&) override {
    const int64_t n = gradient.elements();
    SaturatingSum total{partial->norm_squares, partial->nonfinite != 0};
    std::mutex mutex;  // who comes first does not matter: integers
    parallel_ranges((n + norm_block - 1) / norm_block, 1, norm_block, threads_, [&](int64_t begin, int64_t end) {
      const SaturatingSum part = gradient.dtype == DType::bf16
                                     ? squares_of_blocks(gradient.as<bf16_t>(), control->loss_scale, n, begin, end)
                                     : squares_of_blocks(gradient.as<float>(), control->loss_scale, n, begin, end);
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
  void do_agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, const LossScaling& scaling,
                     Stream&) override {
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
    control->gradient_factor = control->clip_scale / control->loss_scale;
    control->stop_votes = stop_votes;
    if (scaling.dynamic) adapt_loss_scale(*control, scaling);
  }

  int threads_;
};

}  // namespace

std::unique_ptr<UpdateOps> make_cpu_update_ops(int threads) { return std::make_unique<CpuUpdateOps>(threads); }

}  // namespace tessera
#endif
