// Around the matrix products: conversions, sums over rows for bias gradients, and what reaches gradients.
#include "kernels/cpu/matmul_loops.h"

#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/gradient-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

template <class To, class From>
void convert(To* to, const From* from, int64_t n) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR { store(load(d, from + i), d, to + i); });
}

void convert_loop(void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  if (to_type == DType::f32) {
    with_storage(from_type, [&]<class T>(T*) { convert(static_cast<float*>(to), static_cast<const T*>(from), n); });
  } else {
    invariant(from_type == DType::f32, "a conversion between two 16-bit types");
    with_storage(to_type, [&]<class T>(T*) { convert(static_cast<T*>(to), static_cast<const float*>(from), n); });
  }
}

void write_gradient_loop(void* gradient, DType dtype, const float* sums, int64_t n, GradientWrite write, const RandomStream& rounding,
                         uint64_t first) {
  if (dtype == DType::bf16) return write_gradient(static_cast<bf16_t*>(gradient), sums, n, write, rounding, first);
  write_gradient(static_cast<float*>(gradient), sums, n, write, rounding, first);
}

/// sums[i] += rows[0][i] + rows[1][i] + ... in this order; several rows at a time spare loads and stores of the sums.
template <int count, class T>
HWY_INLINE void add_rows(float* sums, const T* rows, int64_t stride, int64_t n) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    auto sum = hn::LoadU(d, sums + i);
    for (int r = 0; r < count; r++) sum = hn::Add(sum, load(d, rows + r * stride + i));
    hn::StoreU(sum, d, sums + i);
  });
}

/// Rows are added in groups, whose sums are added in turn: one long sum would round more, and the groups do not depend on the number of
/// threads.
template <class T>
void sum_columns(const Tensor& dbias, const T* matrix, int64_t stride, int64_t rows, GradientWrite write, const RandomStream& rounding,
                 uint64_t first, int64_t begin, int64_t end) {
  constexpr int64_t group = 128, block = 1024;  // sums of a block of columns stay in the nearest cache
  alignas(64) float totals[block], sums[block];
  for (int64_t column = begin; column < end; column += block) {
    const int64_t n = std::min(block, end - column);
    std::fill_n(totals, n, 0.0f);
    for (int64_t row = 0; row < rows; row += group) {
      const int64_t stop = std::min(rows, row + group);
      std::fill_n(sums, n, 0.0f);
      int64_t r = row;
      for (; r + 4 <= stop; r += 4) add_rows<4>(sums, matrix + r * stride + column, stride, n);
      for (; r < stop; r++) add_rows<1>(sums, matrix + r * stride + column, stride, n);
      add_rows<1>(totals, sums, 0, n);
    }
    write_gradient_loop(static_cast<char*>(dbias.data) + column * bytes_of(dbias.dtype), dbias.dtype, totals, n, write, rounding,
                        first + static_cast<uint64_t>(column));
  }
}

void bias_gradient_loop(const Tensor& dbias, const Tensor& dy, GradientWrite write, const RandomStream& rounding, uint64_t first,
                        int64_t begin, int64_t end) {
  with_storage(dy.dtype,
               [&]<class T>(T*) { sum_columns(dbias, dy.as<T>(), dy.row_stride(), dy.rows(), write, rounding, first, begin, end); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {
HWY_EXPORT(convert_loop);
HWY_EXPORT(write_gradient_loop);
HWY_EXPORT(bias_gradient_loop);
}  // namespace

void convert_range(void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  HWY_DYNAMIC_DISPATCH(convert_loop)(to, to_type, from, from_type, n);
}

void write_gradient_range(void* gradient, DType dtype, const float* sums, int64_t n, GradientWrite write, const RandomStream& rounding,
                          uint64_t first) {
  HWY_DYNAMIC_DISPATCH(write_gradient_loop)(gradient, dtype, sums, n, write, rounding, first);
}

void bias_gradient_columns(const Tensor& dbias, const Tensor& dy, GradientWrite write, const RandomStream& rounding, uint64_t first,
                           int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(bias_gradient_loop)(dbias, dy, write, rounding, first, begin, end);
}

}  // namespace tessera
#endif
