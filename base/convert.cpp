#include "base/convert.h"

#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace tessera {

template <class From>
static void convert_from(void* to, DType to_type, const From* from, int64_t n) {
  const auto fill = [&](auto* typed) {
    using To = std::remove_pointer_t<decltype(typed)>;
    for (int64_t i = 0; i < n; i++) typed[i] = To(static_cast<float>(from[i]));
  };
  switch (to_type) {
    case DType::f32:
      return fill(static_cast<float*>(to));
    case DType::bf16:
      return fill(static_cast<bf16_t*>(to));
    case DType::f16:
      return fill(static_cast<f16_t*>(to));
    default:
      throw InternalError("only fp32, bf16 and fp16 are converted into each other");
  }
}

void convert(void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  if (to_type == from_type) {
    std::memcpy(to, from, static_cast<size_t>(n * bytes_of(to_type)));
    return;
  }
  switch (from_type) {
    case DType::f32:
      return convert_from(to, to_type, static_cast<const float*>(from), n);
    case DType::bf16:
      return convert_from(to, to_type, static_cast<const bf16_t*>(from), n);
    case DType::f16:
      return convert_from(to, to_type, static_cast<const f16_t*>(from), n);
    default:
      throw InternalError("only fp32, bf16 and fp16 are converted into each other");
  }
}

}  // namespace tessera
