// h = residual + delta and its norm, a block a row. Bound by memory: two rows are read, two written, and a row stays in registers between
// its passes. A block has as many bytes in flight as two rows have, an SM 16 blocks and more: enough for 4.8 TB/s.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm_kernels.h"
#include "kernels/cuda/norm_rows.h"

namespace tessera::cuda {
namespace {

constexpr int blocks_per_multiprocessor = 32;  // of one warp: all that fit

/// h, n, residual, delta [N, H]; weight, bias [H]; mean, rstd [N].
template <class T>
struct Forward {
  Rows<T> h, n;
  Rows<const T> residual, delta;
  const T *weight, *bias;
  float *mean, *rstd;
  int64_t N, H;
  float epsilon;
  bool packed;
};

/// h = residual + delta of one row, rounded as it is stored; it stays in `row`. Everything is loaded before the first store.
template <class T, int held>
__device__ __forceinline__ void add_delta(RowGroups<T, held>& row, T* h, const T* residual, const T* delta, int64_t H, bool packed) {
  RowGroups<T, held> deltas;
  row.load(residual, H, packed);
  deltas.load(delta, H, packed);
  for_each_group<held>(H, [&](int k, int64_t column) {
    NormElements<T> sum = row.get(k, residual, H, column, packed);
    const NormElements<T> added = deltas.get(k, delta, H, column, packed);
#pragma unroll
    for (int i = 0; i < norm_columns; i++) sum.set(i, sum[i] + added[i]);
    row.set(k, sum);
    store_elements(h + column, sum, elements_left<norm_columns>(H, column), packed);
  });
}

template <class T, int held>
__device__ __forceinline__ float mean_of(const RowGroups<T, held>& row, const T* h, int64_t H, bool packed) {
  float sum = 0;
  for_each_group<held>(H, [&](int k, int64_t column) {
    const NormElements<T> x = row.get(k, h, H, column, packed);
#pragma unroll
    for (int i = 0; i < norm_columns; i++) sum += x[i];  // beyond the end there are zeros
  });
  return row_sum(sum) / static_cast<float>(H);
}

/// 1 / sqrt(mean of (h - center)^2 + epsilon). With the mean of squares less the square of the mean, a large mean would cost digits.
template <class T, int held>
__device__ __forceinline__ float rstd_of(const RowGroups<T, held>& row, const T* h, float center, const Forward<T>& a) {
  float squares = 0;
  for_each_group<held>(a.H, [&](int k, int64_t column) {
    const NormElements<T> group = row.get(k, h, a.H, column, a.packed);
    const int count = elements_left<norm_columns>(a.H, column);
#pragma unroll
    for (int i = 0; i < norm_columns; i++) {
      const float x = i < count ? group[i] - center : 0;
      squares = fmaf(x, x, squares);
    }
  });
  return 1 / sqrtf(row_sum(squares) / static_cast<float>(a.H) + a.epsilon);
}

template <class T, bool layer_norm, int held>
__global__ void __launch_bounds__(row_threads_max, row_blocks<T, held>) norm_forward_kernel(const Forward<T> a) {
  for (int64_t r = blockIdx.x; r < a.N; r += gridDim.x) {
    T *h = a.h[r], *n = a.n[r];
    RowGroups<T, held> row;
    if (a.delta.data) {
      add_delta(row, h, a.residual[r], a.delta[r], a.H, a.packed);
    } else {
      row.load(h, a.H, a.packed);
    }
    const float m = layer_norm ? mean_of(row, h, a.H, a.packed) : 0;
    const float s = rstd_of(row, h, m, a);
    for_each_group<held>(a.H, [&](int k, int64_t column) {
      const int count = elements_left<norm_columns>(a.H, column);
      NormElements<T> group = row.get(k, h, a.H, column, a.packed);
      const NormElements<T> weight = load_elements<norm_columns>(a.weight + column, count, a.packed);
      NormElements<T> bias;
      if constexpr (layer_norm) bias = load_elements<norm_columns>(a.bias + column, count, a.packed);
#pragma unroll
      for (int i = 0; i < norm_columns; i++) {
        if constexpr (layer_norm) {
          group.set(i, fmaf((group[i] - m) * s, weight[i], bias[i]));
        } else {
          group.set(i, group[i] * s * weight[i]);
        }
      }
      store_elements(n + column, group, count, a.packed);
    });
    if (threadIdx.x == 0) {
      if constexpr (layer_norm) a.mean[r] = m;
      a.rstd[r] = s;
    }
  }
}

template <class T, bool layer_norm>
void launch_forward(const Forward<T>& a, const CudaContext& context, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(a.N, int64_t{blocks_per_multiprocessor} * context.multiprocessors));
  with_held_groups<T>(a.H, [&](auto held) {
    launch(norm_forward_kernel<T, layer_norm, decltype(held)::value>, {blocks, row_threads(a.H)}, stream, a);
  });
}

}  // namespace

void norm_forward(const Tensor& h, const Tensor& n, const Tensor& mean, const Tensor& rstd, const Tensor& residual, const Tensor& delta,
                  const Tensor& weight, const Tensor& bias, float epsilon, const CudaContext& context, cudaStream_t stream) {
  if (h.elements() == 0) return;
  with_storage(h.dtype, [&]<class T>(T*) {
    const Forward<T> a = {.h = rows_of<T>(h),
                          .n = rows_of<T>(n),
                          .residual = rows_of<const T>(residual),
                          .delta = rows_of<const T>(delta),
                          .weight = elements_of<T>(weight),
                          .bias = elements_of<T>(bias),
                          .mean = elements_of<float>(mean),
                          .rstd = elements_of<float>(rstd),
                          .N = h.rows(),
                          .H = h.columns(),
                          .epsilon = epsilon,
                          .packed = all_packed(h, n, residual, delta, weight, bias)};
    if (mean.empty()) return launch_forward<T, false>(a, context, stream);
    launch_forward<T, true>(a, context, stream);
  });
}

}  // namespace tessera::cuda
