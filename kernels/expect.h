#pragma once
#include <initializer_list>

#include "kernels/tensor.h"

namespace tessera {

struct ExpectedTensor {
  const char* name;
  const Tensor& tensor;
  Shape shape;
  DType dtype;
  bool optional = false;  // may be empty
};
constexpr bool optional = true;

/// The shape check of every public op: throws InternalError "layer_norm_forward: rstd is [4] fp32, expected [8] fp32", also for a tensor
/// that is missing. Rows of matrices may lie apart.
void expect(const char* op, std::initializer_list<ExpectedTensor> tensors);
/// The same for ops that see their tensors as flat memory: everything must be contiguous.
void expect_whole(const char* op, std::initializer_list<ExpectedTensor> tensors);
/// InternalError unless activations or weights of `dtype` are fp32, bf16 or fp16, and gradients of weights fp32 or bf16.
void expect_compute_type(const char* op, DType dtype);
void expect_gradient_type(const char* op, DType dtype);

}  // namespace tessera
