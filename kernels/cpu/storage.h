#pragma once
#include "base/dtype.h"
#include "base/error.h"
#include "base/half.h"

namespace tessera {

/// body(pointer) with a null pointer of the type that stores `dtype`: float*, bf16_t* or f16_t*. One dispatch for a whole range.
template <class Body>
auto with_storage(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::bf16:
      return body(static_cast<bf16_t*>(nullptr));
    case DType::f16:
      return body(static_cast<f16_t*>(nullptr));
    default:
      invariant(dtype == DType::f32, "an op got a tensor that is not fp32, bf16 or fp16");
      return body(static_cast<float*>(nullptr));
  }
}

}  // namespace tessera
