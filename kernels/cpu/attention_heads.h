#pragma once
#include "kernels/attention_ops.h"

namespace tessera {

/// The operands of one attention call as plain pointers, for code that is compiled once for each instruction set.
struct AttentionHeads {
  /// Row t of head h of sequence b starts at data + (b T + t) stride + h D.
  struct Matrix {
    float* data = nullptr;
    int64_t stride = 0;
  };
  struct Rows {
    float* data;
    int64_t stride;
    float* operator[](int64_t t) const { return data + t * stride; }
  };

  AttentionShape shape;
  Matrix q, k, v, y, dy, dq, dk, dv;
  float *lse = nullptr, *delta = nullptr;  // [B, A, T]

  Rows rows(const Matrix& matrix, int64_t b, int64_t head) const {
    return {matrix.data + b * shape.T * matrix.stride + head * shape.D, matrix.stride};
  }
  float* statistics(float* of, int64_t b, int64_t head) const { return of + (b * shape.A + head) * shape.T; }
};

}  // namespace tessera
