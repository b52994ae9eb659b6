#include "kernels/expect.h"

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

/// Rows may lie apart, in a matrix; everything else is contiguous.
static bool well_laid(const Tensor& tensor) {
  if (tensor.shape.rank() != 2) return tensor.contiguous();
  return (tensor.shape[1] <= 1 || tensor.strides[1] == 1) && (tensor.shape[0] <= 1 || tensor.strides[0] >= tensor.shape[1]);
}

void expect(const char* op, std::initializer_list<ExpectedTensor> tensors) {
  for (const auto& [name, tensor, shape, dtype] : tensors) {
    if (tensor.empty()) continue;
    if (tensor.shape != shape || tensor.dtype != dtype) {
      throw InternalError(fmt::format("{}: {} is {} {}, expected {} {}", op, name, tensor.shape.text(), name_of(tensor.dtype), shape.text(),
                                      name_of(dtype)));
    }
    if (!well_laid(tensor)) throw InternalError(fmt::format("{}: the rows of {} {} are not contiguous", op, name, tensor.shape.text()));
  }
}

}  // namespace tessera
