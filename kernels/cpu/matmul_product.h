#pragma once
#include "kernels/tensor.h"

namespace tessera {

/// One matrix product, row-major: c = a b + bias (the same for every row, or empty), or c += a b. Rows may lie apart.
/// c [m, n], a [m, k], b [k, n], bias [n]; a transposed factor is stored as [its columns, its rows].
struct MatmulProduct {
  Tensor c, a, b;
  Tensor bias = {};
  Tensor packed_b = {};  // b once more, in panels (base/packed_weight.h); empty where nobody packed it
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
  bool read_late = false;  // c: only after the caches have seen much else

  int64_t m() const { return c.rows(); }
  int64_t n() const { return c.columns(); }
  int64_t k() const { return transpose_a ? a.rows() : a.columns(); }
};

}  // namespace tessera
