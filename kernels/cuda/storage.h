#pragma once
// From a tensor's dtype to the type that kernels are compiled for.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/error.h"
#include "kernels/tensor.h"

namespace tessera::cuda {

/// body(pointer) with a null pointer of the type that stores `dtype` in kernels: float*, __nv_bfloat16* or __half*.
template <class Body>
auto with_storage(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::bf16:
      return body(static_cast<__nv_bfloat16*>(nullptr));
    case DType::f16:
      return body(static_cast<__half*>(nullptr));
    default:
      invariant(dtype == DType::f32, "an op got a tensor that is not fp32, bf16 or fp16");
      return body(static_cast<float*>(nullptr));
  }
}

/// The same with float* or __nv_bfloat16*, the types of gradients.
template <class Body>
auto with_gradient_storage(DType dtype, Body&& body) {
  if (dtype == DType::bf16) return body(static_cast<__nv_bfloat16*>(nullptr));
  invariant(dtype == DType::f32, "an op got a gradient that is neither fp32 nor bf16");
  return body(static_cast<float*>(nullptr));
}

/// The elements of a tensor whose dtype with_storage has seen; null for an empty one.
template <class T>
T* elements_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data);
}

}  // namespace tessera::cuda
