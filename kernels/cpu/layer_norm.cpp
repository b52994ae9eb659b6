// Layer normalization, a row at a time: the passes after the first find the row in the nearest caches.
#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

/// The rows of a matrix, which may lie apart.
class Rows {
 public:
  explicit Rows(const Tensor& matrix) : first_(matrix.as<float>()), stride_(matrix.row_stride()) {}
  float* operator[](int64_t row) const { return first_ + row * stride_; }

 private:
  float* first_;
  int64_t stride_;
};

/// The sum of term(d, i) over i in [0, n). Four vectors at a time hide the latency of the additions.
template <class Term>
HWY_INLINE float sum_of_terms(int64_t n, Term term) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, term(d, i));
    s1 = hn::Add(s1, term(d, i + lanes));
    s2 = hn::Add(s2, term(d, i + 2 * lanes));
    s3 = hn::Add(s3, term(d, i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, term(d, i));
  float rest = 0;
  const hn::CappedTag<float, 1> one;
  for (; i < n; i++) rest += hn::GetLane(term(one, i));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)))) + rest;
}

void layer_norm_forward_rows(const Tensor& h_rows, const Tensor& n_rows, float* mean, float* rstd, const Tensor& residual_rows,
                             const Tensor& delta_rows, const float* weight, const float* bias, float epsilon, int64_t begin, int64_t end) {
  const int64_t H = h_rows.columns();
  const float width = static_cast<float>(H);
  const bool adds = !delta_rows.empty();
  const Rows hs(h_rows), ns(n_rows), residuals(residual_rows), deltas(adds ? delta_rows : residual_rows);
  for (int64_t r = begin; r < end; r++) {
    float *h = hs[r], *n = ns[r];
    const float *residual = residuals[r], *delta = deltas[r];
    const float sum = adds ? sum_of_terms(H,
                                          [=](auto d, int64_t i) HWY_ATTR {
                                            const auto x = hn::Add(hn::LoadU(d, residual + i), hn::LoadU(d, delta + i));
                                            hn::StoreU(x, d, h + i);
                                            return x;
                                          })
                           : sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR { return hn::LoadU(d, h + i); });
    const float m = sum / width;
    // The mean of squares less the square of the mean would cancel where the mean is large.
    const float squares = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR {
      const auto x = hn::Sub(hn::LoadU(d, h + i), hn::Set(d, m));
      return hn::Mul(x, x);
    });
    const float s = 1 / std::sqrt(squares / width + epsilon);
    for_each_vector(H, [=](auto d, int64_t i) HWY_ATTR {
      const auto x = hn::Mul(hn::Sub(hn::LoadU(d, h + i), hn::Set(d, m)), hn::Set(d, s));
      hn::StoreU(hn::MulAdd(x, hn::LoadU(d, weight + i), hn::LoadU(d, bias + i)), d, n + i);
    });
    mean[r] = m;
    rstd[r] = s;
  }
}

/// With g = dn weight and x = (h - mean) rstd:   dx = dh + rstd (g - mean of g - x mean of g x).
void layer_norm_backward_input_rows(const Tensor& dx_rows, const Tensor& dh_rows, const Tensor& dn_rows, const Tensor& h_rows,
                                    const float* mean, const float* rstd, const float* weight, int64_t begin, int64_t end) {
  const int64_t H = h_rows.columns();
  const float width = static_cast<float>(H);
  const Rows dxs(dx_rows), dhs(dh_rows), dns(dn_rows), hs(h_rows);
  for (int64_t r = begin; r < end; r++) {
    const float *dh = dhs[r], *dn = dns[r], *h = hs[r];
    float* dx = dxs[r];
    const float m = mean[r], s = rstd[r];
    const float g_sum =
        sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR { return hn::Mul(hn::LoadU(d, dn + i), hn::LoadU(d, weight + i)); });
    const float gx_sum = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR {
      const auto g = hn::Mul(hn::LoadU(d, dn + i), hn::LoadU(d, weight + i));
      return hn::Mul(g, hn::Mul(hn::Sub(hn::LoadU(d, h + i), hn::Set(d, m)), hn::Set(d, s)));
    });
    const float g_mean = g_sum / width, gx_mean = gx_sum / width;
    for_each_vector(H, [=](auto d, int64_t i) HWY_ATTR {
      const auto g = hn::Mul(hn::LoadU(d, dn + i), hn::LoadU(d, weight + i));
      const auto x = hn::Mul(hn::Sub(hn::LoadU(d, h + i), hn::Set(d, m)), hn::Set(d, s));
      const auto through_norm = hn::NegMulAdd(x, hn::Set(d, gx_mean), hn::Sub(g, hn::Set(d, g_mean)));
      hn::StoreU(hn::MulAdd(through_norm, hn::Set(d, s), hn::LoadU(d, dh + i)), d, dx + i);
    });
  }
}

/// Columns [begin, end). A column is summed over chunks of rows, each on its own before it meets the total: the error grows with
/// the chunk and the number of chunks, not with their product, and no cut between threads changes a bit.
void layer_norm_backward_weight_columns(float* dweight, float* dbias, const Tensor& dn_rows, const Tensor& h_rows, const float* mean,
                                        const float* rstd, int64_t begin, int64_t end) {
  constexpr int64_t chunk_rows = 64, block_columns = 512;
  const Rows dns(dn_rows), hs(h_rows);
  const int64_t N = h_rows.rows();
  HWY_ALIGN float weight_sums[block_columns];
  HWY_ALIGN float bias_sums[block_columns];
  float *const weight_sum = weight_sums, *const bias_sum = bias_sums;
  for (int64_t column = begin; column < end; column += block_columns) {
    const int64_t columns = HWY_MIN(block_columns, end - column);
    for (int64_t first = 0; first < N; first += chunk_rows) {
      const int64_t last = HWY_MIN(first + chunk_rows, N);
      for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR {
        hn::StoreU(hn::Zero(d), d, weight_sum + i);
        hn::StoreU(hn::Zero(d), d, bias_sum + i);
      });
      for (int64_t r = first; r < last; r++) {
        const float *dn = dns[r] + column, *h = hs[r] + column;
        const float m = mean[r], s = rstd[r];
        for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR {
          const auto g = hn::LoadU(d, dn + i);
          const auto x = hn::Mul(hn::Sub(hn::LoadU(d, h + i), hn::Set(d, m)), hn::Set(d, s));
          hn::StoreU(hn::MulAdd(g, x, hn::LoadU(d, weight_sum + i)), d, weight_sum + i);
          hn::StoreU(hn::Add(hn::LoadU(d, bias_sum + i), g), d, bias_sum + i);
        });
      }
      for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR {
        hn::StoreU(hn::Add(hn::LoadU(d, dweight + column + i), hn::LoadU(d, weight_sum + i)), d, dweight + column + i);
        hn::StoreU(hn::Add(hn::LoadU(d, dbias + column + i), hn::LoadU(d, bias_sum + i)), d, dbias + column + i);
      });
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(layer_norm_forward_rows);
HWY_EXPORT(layer_norm_backward_input_rows);
HWY_EXPORT(layer_norm_backward_weight_columns);

namespace {

class CpuNormOps : public NormOps {
 public:
  explicit CpuNormOps(int threads) : threads_(threads) {}

 private:
  void do_layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, Tensor bias,
                             float epsilon, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(layer_norm_forward_rows)
      (h, n, mean.as<float>(), rstd.as<float>(), residual, delta, weight.as<float>(), bias.as<float>(), epsilon, begin, end);
    });
  }

  void do_layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(layer_norm_backward_input_rows)
      (dx, dh, dn, h, mean.as<float>(), rstd.as<float>(), weight.as<float>(), begin, end);
    });
  }

  void do_layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Stream&) override {
    parallel_ranges(h.columns(), floats_of_a_line, h.rows(), threads_, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(layer_norm_backward_weight_columns)
      (dweight.as<float>(), dbias.as<float>(), dn, h, mean.as<float>(), rstd.as<float>(), begin, end);
    });
  }

  int threads_;
};

}  // namespace

std::unique_ptr<NormOps> make_cpu_norm_ops(int threads) { return std::make_unique<CpuNormOps>(threads); }

}  // namespace tessera
#endif
