#pragma once
#include <cuda_runtime_api.h>

#include "kernels/attention_ops.h"

namespace tessera::cuda {

/// Row t of head h of sequence b starts (b T + t) stride + h D elements after data.
template <class T>
struct HeadMatrix {
  T* data = nullptr;
  int64_t stride = 0;
};

/// The operands of one call, passed by value.
template <class T>
struct AttentionOperands {
  AttentionShape shape;
  HeadMatrix<const T> q, k, v, dy;
  HeadMatrix<T> y, dq, dk, dv;
  float *lse = nullptr, *delta = nullptr;  // [B, A, T]
  bool packed = false;                     // all rows of all matrices begin at multiples of 16 bytes
};

/// y and lse from q, k, v. T is float, __nv_bfloat16 or __half; a .cu file for each.
template <class T>
void attention_forward(const AttentionOperands<T>& operands, cudaStream_t stream);
/// dq, dk, dv and delta from dy, q, k, v, y and lse.
template <class T>
void attention_backward(const AttentionOperands<T>& operands, cudaStream_t stream);

}  // namespace tessera::cuda
