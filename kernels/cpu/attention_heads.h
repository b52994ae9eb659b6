#pragma once
#include "kernels/attention_ops.h"
#include "kernels/cpu/bf16_kernels.h"

namespace tessera {

/// The operands of one attention call as plain pointers, for code that is compiled once for each instruction set.
struct AttentionHeads {
  /// Row t of head h of sequence b starts (b T + t) stride + h D elements of the heads' type after data.
  struct Matrix {
    void* data = nullptr;
    int64_t stride = 0;
  };
  /// The rows of one head.
  template <class T>
  struct Rows {
    T* data;
    int64_t stride;
    T* operator[](int64_t t) const { return data + t * stride; }
  };

  AttentionShape shape;
  DType dtype;                                // of all matrices
  Bf16Kernel bf16_kernel = Bf16Kernel::None;  // what multiplies them where they are bf16; None: fp32 tiles
  Matrix q, k, v, y, dy, dq, dk, dv;
  float *lse = nullptr, *delta = nullptr;  // [B, A, T]

  template <class T>
  Rows<T> rows(const Matrix& matrix, int64_t b, int64_t head) const {
    return {static_cast<T*>(matrix.data) + b * shape.T * matrix.stride + head * shape.D, matrix.stride};
  }
  float* statistics(float* of, int64_t b, int64_t head) const { return of + (b * shape.A + head) * shape.T; }
};

}  // namespace tessera
