// Softmax cross-entropy, a row at a time: three passes that find the row, or its exponentials, in a near cache.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

template <class T>
float largest_of(const T* row, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  float largest = row[0];
  auto m0 = hn::Set(d, largest), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    m0 = hn::Max(m0, load(d, row + i));
    m1 = hn::Max(m1, load(d, row + i + lanes));
    m2 = hn::Max(m2, load(d, row + i + 2 * lanes));
    m3 = hn::Max(m3, load(d, row + i + 3 * lanes));
  }
  for (; i < n; i++) largest = std::max<float>(largest, row[i]);
  return std::max(largest, hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(m0, m1), hn::Max(m2, m3)))));
}

/// The sum of e^(row[i] - largest); where `keep`, exponentials[i] becomes its term, also in place. A NaN anywhere makes the sum NaN.
template <bool keep, class T>
float sum_of_exponentials(float* exponentials, const T* row, int64_t n, float largest) {
  return sum_of_terms(n, [=](auto d, int64_t i) HWY_ATTR {
    const auto e = exp_up_to_88(d, hn::Sub(load(d, row + i), hn::Set(d, largest)));
    if constexpr (keep) hn::StoreU(e, d, exponentials + i);
    return e;
  });
}

float loss_of(float largest, float sum, float target_logit) {
  return static_cast<float>(std::log(static_cast<double>(sum)) + (static_cast<double>(largest) - target_logit));
}

/// The row becomes its gradient, each element rounded once.
template <class T>
float cross_entropy_of(T* row, float* exponentials, int64_t V, int32_t target, float scale) {
  const float largest = largest_of(row, V), target_logit = row[target];
  const float sum = sum_of_exponentials<true>(exponentials, row, V, largest);
  const float factor = scale / sum;
  const T at_target(exponentials[target] * factor - scale);
  for_each_vector(V, [=](auto d, int64_t i) HWY_ATTR { store(hn::Mul(hn::LoadU(d, exponentials + i), hn::Set(d, factor)), d, row + i); });
  row[target] = at_target;
  return loss_of(largest, sum, target_logit);
}

/// `workspace` holds a row of exponentials; fp32 logits hold their own.
void cross_entropy_rows(float* losses, const Tensor& logits, const int32_t* targets, float scale, float* workspace, int64_t begin,
                        int64_t end) {
  with_storage(logits.dtype, [&]<class T>(T*) {
    for (int64_t r = begin; r < end; r++) {
      T* row = logits.as<T>() + r * logits.row_stride();
      float* exponentials = workspace;
      if constexpr (std::is_same_v<T, float>) exponentials = row;
      losses[r] = cross_entropy_of(row, exponentials, logits.columns(), targets[r], scale);
    }
  });
}

void cross_entropy_loss_rows(float* losses, const Tensor& logits, const int32_t* targets, int64_t begin, int64_t end) {
  const int64_t V = logits.columns();
  with_storage(logits.dtype, [&]<class T>(T*) {
    for (int64_t r = begin; r < end; r++) {
      const T* row = logits.as<T>() + r * logits.row_stride();
      const float largest = largest_of(row, V);
      losses[r] = loss_of(largest, sum_of_exponentials<false>(nullptr, row, V, largest), row[targets[r]]);
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {
HWY_EXPORT(cross_entropy_rows);
HWY_EXPORT(cross_entropy_loss_rows);

/// A row of exponentials for each thread: no vocabulary is larger.
constexpr int64_t workspace_floats_per_thread = int64_t{1} << 20;

class CpuLossOps : public LossOps {
 public:
  explicit CpuLossOps(int threads) : threads_(threads), workspace_(workspace_floats_per_thread * threads) {}

 private:
  void do_cross_entropy(Tensor losses, Tensor logits, Tensor targets, float scale, const StepControl* control, Stream&) override {
    invariant(logits.dtype == DType::f32 || logits.columns() <= workspace_floats_per_thread,
              "a row of logits is longer than the workspace of the loss");
    parallel_ranges(logits.rows(), 1, logits.columns(), threads_, [&](int64_t begin, int64_t end) {
      float* exponentials = workspace_.part(omp_get_thread_num(), threads_).data();
      HWY_DYNAMIC_DISPATCH(cross_entropy_rows)
      (losses.as<float>(), logits, targets.as<int32_t>(), scale * control->loss_scale, exponentials, begin, end);
    });
  }

  void do_cross_entropy_loss(Tensor losses, Tensor logits, Tensor targets, Stream&) override {
    parallel_ranges(logits.rows(), 1, logits.columns(), threads_, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(cross_entropy_loss_rows)(losses.as<float>(), logits, targets.as<int32_t>(), begin, end);
    });
  }

  int threads_;
  Workspace workspace_;
};

}  // namespace

std::unique_ptr<LossOps> make_cpu_loss_ops(int threads) { return std::make_unique<CpuLossOps>(threads); }

}  // namespace tessera
#endif
