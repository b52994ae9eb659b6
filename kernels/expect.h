#pragma once
#include <initializer_list>

#include "kernels/tensor.h"

namespace tessera {

struct ExpectedTensor {
  const char* name;
  const Tensor& tensor;
  Shape shape;
  DType dtype;
};

/// The shape check of every public op: throws InternalError "layer_norm_forward: rstd is [4] fp32, expected [8] fp32". Empty tensors are not checked.
void expect(const char* op, std::initializer_list<ExpectedTensor> tensors);

}  // namespace tessera
