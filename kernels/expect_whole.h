#pragma once
#include <fmt/format.h>

#include "base/error.h"
#include "kernels/expect.h"

namespace tessera {

/// `expect` for ops that see their tensors as flat memory: rows that lie apart and missing tensors are InternalErrors too.
inline void expect_whole(const char* op, std::initializer_list<ExpectedTensor> tensors) {
  expect(op, tensors);
  for (const auto& [name, tensor, shape, dtype] : tensors) {
    if (tensor.empty() && tensor.elements() > 0) throw InternalError(fmt::format("{}: {} is missing", op, name));
    if (!tensor.contiguous()) throw InternalError(fmt::format("{}: the rows of {} lie apart", op, name));
  }
}

}  // namespace tessera
