// The end of a step on the CPU: the exact norm, the loss, what the ranks agree on, and the update's cut between threads.
#include <algorithm>
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
  constexpr int64_t lanes = norm_lanes;
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

/// Of the gradient over `loss_scale`.
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
    sum.add_block(squares, loss_scale);
  }
  return sum;
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
        factors.decay = decay_of(rule, hyper, segment.decay);
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
      total.add(part);
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

  void do_agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, const LossScaling& scaling,
                     Stream&) override {
    StepAgreement agreement;
    for (int rank = 0; rank < ranks; rank++) agreement.add(partials[rank]);
    agreement.finish(*control, clip, scaling);
  }

  int threads_;
};

}  // namespace

std::unique_ptr<UpdateOps> make_cpu_update_ops(int threads) { return std::make_unique<CpuUpdateOps>(threads); }

}  // namespace tessera
#endif
