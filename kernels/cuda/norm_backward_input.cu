// The norms' input gradient, a block a row. Bound by memory: three rows are read, one is written. dn and h stay in registers between the
// two passes; dh, which only the second needs, is read there.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm_kernels.h"
#include "kernels/cuda/norm_rows.h"

namespace tessera::cuda {
namespace {

constexpr int blocks_per_multiprocessor = 32;  // of one warp: all that fit

/// dx, dh, dn, h [N, H]; dx may be dh. weight [H]; mean, rstd [N].
template <class T>
struct BackwardInput {
  Rows<T> dx;
  Rows<const T> dh, dn, h;
  const T* weight;
  const float *mean, *rstd;
  int64_t N, H;
  bool packed;
};

/// With g = dn weight and x = (h - mean) rstd:   dx = dh + rstd (g - mean of g - x mean of g x).   RMS norm: both means of g and h are
/// none.
template <class T, bool layer_norm, int held>
__global__ void __launch_bounds__(row_threads_max, row_blocks<T, held>) norm_backward_input_kernel(const BackwardInput<T> a) {
  const float width = static_cast<float>(a.H);
  for (int64_t r = blockIdx.x; r < a.N; r += gridDim.x) {
    const T *dn_row = a.dn[r], *h_row = a.h[r], *dh_row = a.dh[r];
    T* dx_row = a.dx[r];
    RowGroups<T, held> dn_groups, h_groups;
    dn_groups.load(dn_row, a.H, a.packed);
    h_groups.load(h_row, a.H, a.packed);
    const float m = layer_norm ? a.mean[r] : 0, s = a.rstd[r];
    float g_sum = 0, gx_sum = 0;
    for_each_group<held>(a.H, [&](int k, int64_t column) {
      const int count = elements_left<norm_columns>(a.H, column);
      const NormElements<T> dn = dn_groups.get(k, dn_row, a.H, column, a.packed), h = h_groups.get(k, h_row, a.H, column, a.packed);
      const NormElements<T> weight = load_elements<norm_columns>(a.weight + column, count, a.packed);
#pragma unroll
      for (int i = 0; i < norm_columns; i++) {
        const float g = __fmul_rn(dn[i], weight[i]);  // beyond the end 0
        gx_sum = fmaf(g, (h[i] - m) * s, gx_sum);
        if constexpr (layer_norm) g_sum += g;
      }
    });
    const float gx_mean = row_sum(gx_sum) / width;
    const float g_mean = layer_norm ? row_sum(g_sum) / width : 0;
    for_each_group<held>(a.H, [&](int k, int64_t column) {
      const int count = elements_left<norm_columns>(a.H, column);
      const NormElements<T> dn = dn_groups.get(k, dn_row, a.H, column, a.packed), h = h_groups.get(k, h_row, a.H, column, a.packed);
      const NormElements<T> weight = load_elements<norm_columns>(a.weight + column, count, a.packed);
      NormElements<T> dx = load_elements<norm_columns>(dh_row + column, count, a.packed);
#pragma unroll
      for (int i = 0; i < norm_columns; i++) {
        const float through_norm = fmaf(-(h[i] - m) * s, gx_mean, __fmul_rn(dn[i], weight[i]) - g_mean);
        dx.set(i, fmaf(through_norm, s, dx[i]));
      }
      store_elements(dx_row + column, dx, count, a.packed);
    });
  }
}

template <class T, bool layer_norm>
void launch_backward_input(const BackwardInput<T>& a, const CudaContext& context, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(a.N, int64_t{blocks_per_multiprocessor} * context.multiprocessors));
  with_held_groups<T>(a.H, [&](auto held) {
    launch(norm_backward_input_kernel<T, layer_norm, decltype(held)::value>, {blocks, row_threads(a.H)}, stream, a);
  });
}

}  // namespace

void norm_backward_input(const Tensor& dx, const Tensor& dh, const Tensor& dn, const Tensor& h, const Tensor& mean, const Tensor& rstd,
                         const Tensor& weight, const CudaContext& context, cudaStream_t stream) {
  if (h.elements() == 0) return;
  with_storage(h.dtype, [&]<class T>(T*) {
    const BackwardInput<T> a = {.dx = rows_of<T>(dx),
                                .dh = rows_of<const T>(dh),
                                .dn = rows_of<const T>(dn),
                                .h = rows_of<const T>(h),
                                .weight = elements_of<T>(weight),
                                .mean = elements_of<float>(mean),
                                .rstd = elements_of<float>(rstd),
                                .N = h.rows(),
                                .H = h.columns(),
                                .packed = all_packed(dx, dh, dn, h, weight)};
    if (mean.empty()) return launch_backward_input<T, false>(a, context, stream);
    launch_backward_input<T, true>(a, context, stream);
  });
}

}  // namespace tessera::cuda
