// Softmax cross-entropy, a row at a time: three passes over logits that the nearest cache holds after the first.
#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

using Floats = hn::ScalableTag<float>;

/// Four vectors at a time hide the latency of the additions, and one at a time ends the row.
constexpr int64_t unroll = 4;

float largest_of(const float* row, int64_t n) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  float largest = row[0];
  auto m0 = hn::Set(d, row[0]), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + unroll * lanes <= n; i += unroll * lanes) {
    m0 = hn::Max(m0, hn::LoadU(d, row + i));
    m1 = hn::Max(m1, hn::LoadU(d, row + i + lanes));
    m2 = hn::Max(m2, hn::LoadU(d, row + i + 2 * lanes));
    m3 = hn::Max(m3, hn::LoadU(d, row + i + 3 * lanes));
  }
  for (; i < n; i++) largest = row[i] > largest ? row[i] : largest;
  const float rest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(m0, m1), hn::Max(m2, m3))));
  return rest > largest ? rest : largest;
}

/// The sum of e^(row[i] - largest); where `keep`, row[i] becomes its term. A NaN anywhere makes the sum NaN.
template <bool keep>
float sum_of_exponentials(float* row, int64_t n, float largest) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto term = [&](auto tag, int64_t i) HWY_ATTR {
    const auto e = exp(tag, hn::Sub(hn::LoadU(tag, row + i), hn::Set(tag, largest)));
    if constexpr (keep) hn::StoreU(e, tag, row + i);
    return e;
  };
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + unroll * lanes <= n; i += unroll * lanes) {
    s0 = hn::Add(s0, term(d, i));
    s1 = hn::Add(s1, term(d, i + lanes));
    s2 = hn::Add(s2, term(d, i + 2 * lanes));
    s3 = hn::Add(s3, term(d, i + 3 * lanes));
  }
  float rest = 0;
  const hn::CappedTag<float, 1> one;
  for (; i < n; i++) rest += hn::GetLane(term(one, i));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)))) + rest;
}

float loss_of(float largest, float sum, float target_logit) {
  return static_cast<float>(std::log(static_cast<double>(sum)) + (static_cast<double>(largest) - target_logit));
}

float cross_entropy_row(float* row, int64_t V, int32_t target, float scale) {
  const float largest = largest_of(row, V), target_logit = row[target];
  const float sum = sum_of_exponentials<true>(row, V, largest);
  const float factor = scale / sum;
  for_each_vector(V, [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, row + i), hn::Set(d, factor)), d, row + i); });
  row[target] -= scale;
  return loss_of(largest, sum, target_logit);
}

float cross_entropy_loss_row(float* row, int64_t V, int32_t target) {
  const float largest = largest_of(row, V);
  return loss_of(largest, sum_of_exponentials<false>(row, V, largest), row[target]);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(cross_entropy_row);
HWY_EXPORT(cross_entropy_loss_row);

namespace {

class CpuLossOps : public LossOps {
 public:
  explicit CpuLossOps(int threads) : threads_(threads) {}

 private:
  void do_cross_entropy(Tensor losses, Tensor logits, Tensor targets, float scale, Stream&) override {
    for_each_row(losses, logits, targets,
                 [scale](float* row, int64_t V, int32_t target) { return HWY_DYNAMIC_DISPATCH(cross_entropy_row)(row, V, target, scale); });
  }

  void do_cross_entropy_loss(Tensor losses, Tensor logits, Tensor targets, Stream&) override {
    for_each_row(losses, logits, targets,
                 [](float* row, int64_t V, int32_t target) { return HWY_DYNAMIC_DISPATCH(cross_entropy_loss_row)(row, V, target); });
  }

  template <class RowLoss>
  void for_each_row(const Tensor& losses, const Tensor& logits, const Tensor& targets, RowLoss row_loss) const {
    float *to = losses.as<float>(), *from = logits.as<float>();
    const int32_t* target = targets.as<int32_t>();
    const int64_t rows = logits.rows(), V = logits.columns(), stride = logits.row_stride();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t r = 0; r < rows; r++) to[r] = row_loss(from + r * stride, V, target[r]);
  }

  int threads_;
};

}  // namespace

std::unique_ptr<LossOps> make_cpu_loss_ops(int threads) { return std::make_unique<CpuLossOps>(threads); }

}  // namespace tessera
#endif
