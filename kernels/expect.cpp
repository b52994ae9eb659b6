#include "kernels/expect.h"

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

/// Rows may lie apart, in a matrix; everything else is contiguous.
static bool well_laid(const Tensor& tensor) {
  if (tensor.shape.rank() != 2) return tensor.contiguous();
  return (tensor.shape[1] <= 1 || tensor.strides[1] == 1) && (tensor.shape[0] <= 1 || tensor.strides[0] >= tensor.shape[1]);
}

static void check(const char* op, const ExpectedTensor& expected) {
  const auto& [name, tensor, shape, dtype, may_be_empty] = expected;
  if (tensor.empty()) {
    if (may_be_empty || shape.elements() == 0) return;
    throw InternalError(fmt::format("{}: {} is missing", op, name));
  }
  if (tensor.shape != shape || tensor.dtype != dtype) {
    throw InternalError(
        fmt::format("{}: {} is {} {}, expected {} {}", op, name, tensor.shape.text(), name_of(tensor.dtype), shape.text(), name_of(dtype)));
  }
  if (!well_laid(tensor)) throw InternalError(fmt::format("{}: the rows of {} {} are not contiguous", op, name, tensor.shape.text()));
}

void expect(const char* op, std::initializer_list<ExpectedTensor> tensors) {
  for (const ExpectedTensor& expected : tensors) check(op, expected);
}

void expect_whole(const char* op, std::initializer_list<ExpectedTensor> tensors) {
  for (const ExpectedTensor& expected : tensors) {
    check(op, expected);
    if (!expected.tensor.contiguous()) throw InternalError(fmt::format("{}: the rows of {} lie apart", op, expected.name));
  }
}

void expect_compute_type(const char* op, DType dtype) {
  if (!is_compute_type(dtype)) throw InternalError(fmt::format("{}: {} is not a type of activations and weights", op, name_of(dtype)));
}

void expect_gradient_type(const char* op, DType dtype) {
  if (!is_state_type(dtype)) throw InternalError(fmt::format("{}: {} is not a type of gradients", op, name_of(dtype)));
}

}  // namespace tessera
