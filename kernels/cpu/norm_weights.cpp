// The weight gradients of both norms: sums over chunks of rows, then over the chunks.
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
  constexpr int64_t rows_ahead = 4;  // fetched while these are summed: processors follow the rows of two matrices badly
  const int64_t dn_ahead = rows_ahead * dn_rows.row_stride(), h_ahead = rows_ahead * h_rows.row_stride();
  const T *dn[count], *h[count];
  float m[count], s[count];
  for (int k = 0; k < count; k++) {
    dn[k] = row_of<T>(dn_rows, r + k) + column, h[k] = row_of<T>(h_rows, r + k) + column;
    m[k] = layer_norm ? mean[r + k] : 0, s[k] = rstd[r + k];
  }
  for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR {
    auto gx_sum = hn::LoadU(d, gx_sums + i), g_sum = layer_norm ? hn::LoadU(d, g_sums + i) : hn::Zero(d);
    for (int k = 0; k < count; k++) {
      hwy::Prefetch(dn[k] + i + dn_ahead);
      hwy::Prefetch(h[k] + i + h_ahead);
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

/// sums [2, H] of rows [first, last): of g x, and in layer norm of g.
template <bool layer_norm, class T>
void sum_rows(float* sums, const Tensor& dn, const Tensor& h, const float* mean, const float* rstd, int64_t first, int64_t last) {
  constexpr int64_t block_columns = 1024;  // both their sums stay in the nearest cache
  const int64_t H = h.columns();
  std::fill_n(sums, 2 * H, 0.0f);
  for (int64_t column = 0; column < H; column += block_columns) {
    const int64_t columns = std::min(block_columns, H - column);
    float *gx_sums = sums + column, *g_sums = gx_sums + H;
    int64_t r = first;
    for (; r + 2 <= last; r += 2) add_rows<2, layer_norm, T>(gx_sums, g_sums, dn, h, mean, rstd, r, column, columns);
    for (; r < last; r++) add_rows<1, layer_norm, T>(gx_sums, g_sums, dn, h, mean, rstd, r, column, columns);
  }
}

void norm_chunk_sums_loop(float* sums, const Tensor& dn, const Tensor& h, const Tensor& mean, const Tensor& rstd, int64_t first_chunk,
                          int64_t last_chunk) {
  with_storage(h.dtype, [&]<class T>(T*) {
    for (int64_t chunk = first_chunk; chunk < last_chunk; chunk++, sums += 2 * h.columns()) {
      const int64_t first = chunk * norm_chunk_rows, last = std::min(first + norm_chunk_rows, h.rows());
      if (mean.empty()) {
        sum_rows<false, T>(sums, dn, h, nullptr, rstd.as<float>(), first, last);
      } else {
        sum_rows<true, T>(sums, dn, h, mean.as<float>(), rstd.as<float>(), first, last);
      }
    }
  });
}

void norm_add_sums_loop(float* totals, const float* sums, int64_t chunks, int64_t H, int64_t begin, int64_t end) {
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    for (int64_t row = 0; row < 2; row++) {
      float* to = totals + row * H + begin;
      const float* from = sums + (2 * chunk + row) * H + begin;
      for_each_vector(end - begin,
                      [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, from + i)), d, to + i); });
    }
  }
}

void norm_write_gradients_loop(const Tensor& dweight, const Tensor& dbias, const float* totals, GradientWrite write,
                               const RandomStream& rounding, int64_t begin, int64_t end) {
  const int64_t H = dweight.elements();
  const auto write_both = [&]<class G>(G*) {
    write_gradient(dweight.as<G>() + begin, totals + begin, end - begin, write, rounding, static_cast<uint64_t>(begin));
    if (dbias.empty()) return;
    write_gradient(dbias.as<G>() + begin, totals + H + begin, end - begin, write, rounding, static_cast<uint64_t>(H + begin));
  };
  if (dweight.dtype == DType::bf16) return write_both(static_cast<bf16_t*>(nullptr));
  write_both(static_cast<float*>(nullptr));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(norm_chunk_sums_loop);
HWY_EXPORT(norm_add_sums_loop);
HWY_EXPORT(norm_write_gradients_loop);

void norm_chunk_sums(float* sums, const Tensor& dn, const Tensor& h, const Tensor& mean, const Tensor& rstd, int64_t first_chunk,
                     int64_t last_chunk) {
  HWY_DYNAMIC_DISPATCH(norm_chunk_sums_loop)(sums, dn, h, mean, rstd, first_chunk, last_chunk);
}

void norm_add_sums(float* totals, const float* sums, int64_t chunks, int64_t H, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(norm_add_sums_loop)(totals, sums, chunks, H, begin, end);
}

void norm_write_gradients(const Tensor& dweight, const Tensor& dbias, const float* totals, GradientWrite write,
                          const RandomStream& rounding, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(norm_write_gradients_loop)(dweight, dbias, totals, write, rounding, begin, end);
}

}  // namespace tessera
#endif
