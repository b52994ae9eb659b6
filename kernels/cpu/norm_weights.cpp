// The weight gradients of both norms: sums over the rows, a block of columns at a time.
#include <algorithm>

#include "kernels/cpu/norm_loops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm_weights.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/gradient-inl.h"
#include "kernels/cpu/norm_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

/// Adds `count` rows from row r on to the sums of `columns` columns. Layer norm: x = (h - mean) rstd and two sums; RMS norm: x = h rstd and
/// one. Two rows at a time spare loads and stores of the sums, and change no order.
template <int count, bool layer_norm, class T>
HWY_INLINE void add_rows(float* gx_sums, float* g_sums, const Tensor& dn_rows, const Tensor& h_rows, const float* mean, const float* rstd,
                         int64_t r, int64_t column, int64_t columns) {
  const T *dn[count], *h[count];
  float m[count], s[count];
  for (int k = 0; k < count; k++) {
    dn[k] = row_of<T>(dn_rows, r + k) + column, h[k] = row_of<T>(h_rows, r + k) + column;
    m[k] = layer_norm ? mean[r + k] : 0, s[k] = rstd[r + k];
  }
  for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR {
    auto gx_sum = hn::LoadU(d, gx_sums + i), g_sum = layer_norm ? hn::LoadU(d, g_sums + i) : hn::Zero(d);
    for (int k = 0; k < count; k++) {
      const auto g = load(d, dn[k] + i);
      auto x = load(d, h[k] + i);
      if constexpr (layer_norm) x = hn::Sub(x, hn::Set(d, m[k]));
      gx_sum = hn::MulAdd(g, hn::Mul(x, hn::Set(d, s[k])), gx_sum);
      if constexpr (layer_norm) g_sum = hn::Add(g_sum, g);
    }
    hn::StoreU(gx_sum, d, gx_sums + i);
    if constexpr (layer_norm) hn::StoreU(g_sum, d, g_sums + i);
  });
}

HWY_INLINE void add_to(float* totals, float* sums, int64_t n) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, totals + i), hn::LoadU(d, sums + i)), d, totals + i);
    hn::StoreU(hn::Zero(d), d, sums + i);
  });
}

/// Columns [begin, end). A column is summed over chunks of rows, each on its own before it meets the total: the error grows with
/// the chunk and the number of chunks, not with their product, and no cut between threads changes a bit.
template <bool layer_norm, class T, class G>
void backward_weight(G* dweight, G* dbias, const Tensor& dn_rows, const Tensor& h_rows, const float* mean, const float* rstd,
                     const RandomStream& rounding, int64_t begin, int64_t end) {
  constexpr int64_t chunk_rows = 64, block_columns = 512;
  const int64_t N = h_rows.rows(), H = h_rows.columns();
  HWY_ALIGN float gx_sums[block_columns], g_sums[block_columns], gx_totals[block_columns], g_totals[block_columns];
  std::fill_n(gx_sums, block_columns, 0.0f), std::fill_n(g_sums, block_columns, 0.0f);
  for (int64_t column = begin; column < end; column += block_columns) {
    const int64_t columns = std::min(block_columns, end - column);
    std::fill_n(gx_totals, columns, 0.0f), std::fill_n(g_totals, columns, 0.0f);
    for (int64_t first = 0; first < N; first += chunk_rows) {
      const int64_t last = std::min(first + chunk_rows, N);
      int64_t r = first;
      for (; r + 2 <= last; r += 2) add_rows<2, layer_norm, T>(gx_sums, g_sums, dn_rows, h_rows, mean, rstd, r, column, columns);
      for (; r < last; r++) add_rows<1, layer_norm, T>(gx_sums, g_sums, dn_rows, h_rows, mean, rstd, r, column, columns);
      add_to(gx_totals, gx_sums, columns);
      if (layer_norm) add_to(g_totals, g_sums, columns);
    }
    add_to_gradient(dweight + column, gx_totals, columns, rounding, static_cast<uint64_t>(column));
    if (layer_norm) add_to_gradient(dbias + column, g_totals, columns, rounding, static_cast<uint64_t>(H + column));
  }
}

void norm_backward_weight_loop(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                               const Tensor& rstd, const RandomStream& rounding, int64_t begin, int64_t end) {
  const auto sum_into = [&]<class T, class G>(T*, G* weight) {
    const float* s = rstd.as<float>();
    if (dbias.empty()) return backward_weight<false, T, G>(weight, nullptr, dn, h, nullptr, s, rounding, begin, end);
    backward_weight<true, T, G>(weight, dbias.as<G>(), dn, h, mean.as<float>(), s, rounding, begin, end);
  };
  with_storage(h.dtype, [&]<class T>(T* type) {
    if (dweight.dtype == DType::bf16) return sum_into(type, dweight.as<bf16_t>());
    sum_into(type, dweight.as<float>());
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(norm_backward_weight_loop);

void norm_backward_weight_columns(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                                  const Tensor& rstd, RandomStream rounding, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(norm_backward_weight_loop)(dweight, dbias, dn, h, mean, rstd, rounding, begin, end);
}

}  // namespace tessera
#endif
