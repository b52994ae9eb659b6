#include "kernels/cpu/converted_matmul.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/library_matmul.h"
#include "kernels/cpu/matmul_loops.h"
#include "kernels/cpu/parallel_ranges.h"

namespace tessera {
namespace {

// Terms of a sum that are converted at a time: enough that sgemm's own reading and writing of the result does not show.
constexpr int64_t max_depth = 2048;

/// The part of a factor that stands in rows [m, m + rows) and columns [k, k + columns) of the product.
Tensor part(const Tensor& stored, bool transposed, int64_t m, int64_t rows, int64_t k, int64_t columns) {
  if (transposed) return stored.row_range(k, k + columns).column_range(m, m + rows);
  return stored.row_range(m, m + rows).column_range(k, k + columns);
}

Tensor converted(std::span<float> panel, const Tensor& from, int threads) {
  const Tensor to(panel.data(), DType::f32, {from.rows(), from.columns()});
  convert_rows(to, from, threads);
  return to;
}

}  // namespace

Tensor repeated(const Tensor& vector, int64_t rows) {
  Tensor matrix(vector.data, vector.dtype, {rows, vector.elements()});
  matrix.strides[0] = 0;
  return matrix;
}

void convert_rows(const Tensor& to, const Tensor& from, int threads) {
  const auto row = [](const Tensor& matrix, int64_t r) {
    return static_cast<char*>(matrix.data) + r * matrix.strides[0] * bytes_of(matrix.dtype);
  };
  const int64_t width = to.columns();
  parallel_ranges(to.rows(), 1, width, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) convert_range(row(to, r), to.dtype, row(from, r), from.dtype, width);
  });
}

void ConvertedMatmul::multiply(const MatmulProduct& p) const {
  const bool sums_in_place = p.c.dtype == DType::f32;
  invariant(sums_in_place || !p.accumulate, "a 16-bit result is never added to");
  const int64_t m = p.m(), n = p.n(), k = p.k();
  invariant(m > 0 && n > 0 && k > 0, "a product of matrices without elements");
  const int64_t panel = static_cast<int64_t>(std::min(panels_.a.size(), panels_.b.size()));
  const int64_t depths = (k + max_depth - 1) / max_depth, depth = (k + depths - 1) / depths, columns = std::min(n, panel / depth);
  const int64_t rows = std::min({m, panel / depth, static_cast<int64_t>(panels_.c.size()) / columns});
  Tensor b;
  for (int64_t column = 0; column < n; column += columns) {
    const int64_t width = std::min(columns, n - column);
    for (int64_t row = 0; row < m; row += rows) {
      const int64_t height = std::min(rows, m - row);
      const Tensor c = p.c.row_range(row, row + height).column_range(column, column + width);
      const Tensor sums = sums_in_place ? c : Tensor(panels_.c.data(), DType::f32, {height, width});
      if (!p.bias.empty()) convert_rows(sums, repeated(p.bias.flat_range(column, column + width), height), threads_);
      for (int64_t term = 0; term < k; term += depth) {
        const int64_t terms = std::min(depth, k - term);
        const Tensor a = converted(panels_.a, part(p.a, p.transpose_a, row, height, term, terms), threads_);
        if (row == 0 || depth < k) b = converted(panels_.b, part(p.b, p.transpose_b, term, terms, column, width), threads_);
        multiply_fp32({.c = sums,
                       .a = a,
                       .b = b,
                       .transpose_a = p.transpose_a,
                       .transpose_b = p.transpose_b,
                       .accumulate = term > 0 || p.accumulate || !p.bias.empty()});
      }
      if (!sums_in_place) convert_rows(c, sums, threads_);
    }
  }
}

}  // namespace tessera
