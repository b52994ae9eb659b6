#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace tessera {

/// to[i] = from[i] for n elements in host memory, between fp32, bf16 and fp16, rounded to nearest even. Where both types are alike, any
/// type goes and bits are copied. InternalError otherwise.
void convert(void* to, DType to_type, const void* from, DType from_type, int64_t n);

}  // namespace tessera
