// What the norms share: rows of matrices, and the residual add.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_NORM_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_NORM_ROWS_INL_H_
#undef TESSERA_KERNELS_CPU_NORM_ROWS_INL_H_
#else
#define TESSERA_KERNELS_CPU_NORM_ROWS_INL_H_
#endif

#include "kernels/cpu/transform-inl.h"
#include "kernels/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

/// Row `row` of a matrix of T, whose rows may lie apart.
template <class T>
T* row_of(const Tensor& matrix, int64_t row) {
  return matrix.as<T>() + row * matrix.row_stride();
}

/// Row `row` of h = residual + delta as its type stores it. Without delta h is the residual itself.
template <class T>
HWY_INLINE const T* added_residual(const Tensor& h_rows, const Tensor& residual_rows, const Tensor& delta_rows, int64_t row) {
  T* h = row_of<T>(h_rows, row);
  if (!delta_rows.empty()) {
    transform<T>(h_rows.columns(), {row_of<T>(residual_rows, row), row_of<T>(delta_rows, row)}, {h},
                 [](auto, const auto& in, auto& out) HWY_ATTR { out[0] = hn::Add(in[0], in[1]); });
  }
  return h;
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
