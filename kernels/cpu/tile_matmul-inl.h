// Products of small matrices that lie in the nearest caches: what attention is made of.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_TILE_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_TILE_MATMUL_INL_H_
#undef TESSERA_KERNELS_CPU_TILE_MATMUL_INL_H_
#else
#define TESSERA_KERNELS_CPU_TILE_MATMUL_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Where element (m, k) of the left factor lies: at m * stride + k, or at k * stride + m.
enum class Left { RowMajor, ColumnMajor };
/// What becomes of the product: c = a b or c += a b.
enum class Result { Overwrite, Add };

/// Rows of c that are held in registers at a time, two vectors each: half of the registers or more, and enough to hide the latency
/// of a multiply-add.
#if HWY_TARGET == HWY_AVX3
constexpr int block_rows = 8;
#elif HWY_TARGET == HWY_AVX2
constexpr int block_rows = 6;
#else
constexpr int block_rows = 4;
#endif

template <Left left, Result result, int rows, int vectors>
HWY_INLINE void multiply_block(int64_t depth, const float* HWY_RESTRICT a, int64_t a_stride, const float* HWY_RESTRICT b, int64_t b_stride,
                               float* HWY_RESTRICT c, int64_t c_stride) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sum[rows][vectors];
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vectors; v++) sum[r][v] = result == Result::Add ? hn::LoadU(d, c + r * c_stride + v * lanes) : hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; k++) {
    hn::Vec<decltype(d)> right[vectors];
    for (int v = 0; v < vectors; v++) right[v] = hn::LoadU(d, b + k * b_stride + v * lanes);
    for (int r = 0; r < rows; r++) {
      const auto factor = hn::Set(d, left == Left::RowMajor ? a[r * a_stride + k] : a[k * a_stride + r]);
      for (int v = 0; v < vectors; v++) sum[r][v] = hn::MulAdd(factor, right[v], sum[r][v]);
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vectors; v++) hn::StoreU(sum[r][v], d, c + r * c_stride + v * lanes);
  }
}

/// c (+)= a b with c [rows, columns], a [rows, depth], b [depth, columns]; columns a multiple of a vector.
/// Each element of c is one sum over depth in order, whatever the sizes.
template <Left left, Result result>
void multiply_tile(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                   float* c, int64_t c_stride) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  const int64_t a_row = left == Left::RowMajor ? a_stride : 1;
  const auto rows_of = [&](auto count, int64_t r) HWY_ATTR {
    constexpr int n = decltype(count)::value;
    int64_t column = 0;
    for (; column + 2 * lanes <= columns; column += 2 * lanes) {
      multiply_block<left, result, n, 2>(depth, a + r * a_row, a_stride, b + column, b_stride, c + r * c_stride + column, c_stride);
    }
    if (column < columns) {
      multiply_block<left, result, n, 1>(depth, a + r * a_row, a_stride, b + column, b_stride, c + r * c_stride + column, c_stride);
    }
  };
  int64_t r = 0;
  for (; r + block_rows <= rows; r += block_rows) rows_of(std::integral_constant<int, block_rows>(), r);
  for (; r + 2 <= rows; r += 2) rows_of(std::integral_constant<int, 2>(), r);
  if (r < rows) rows_of(std::integral_constant<int, 1>(), r);
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
