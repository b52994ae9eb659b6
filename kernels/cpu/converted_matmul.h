#pragma once
#include <span>

#include "kernels/cpu/matmul_product.h"

namespace tessera {

/// Products of 16-bit matrices where the library has no fast ones: panels of the factors are converted to fp32 and multiplied there.
class ConvertedMatmul {
 public:
  /// Room for a panel of each factor, and for one of a 16-bit result.
  struct Panels {
    std::span<float> a, b, c;
  };
  ConvertedMatmul(Panels panels, int threads) : panels_(panels), threads_(threads) {}
  /// Sums are fp32 and rounded once. Accumulates where c is fp32.
  void multiply(const MatmulProduct& product) const;

 private:
  Panels panels_;
  int threads_;
};

/// to = from, rounded to nearest; at least one of the two is fp32. A row stride of 0 in `from` repeats one row.
void convert_rows(const Tensor& to, const Tensor& from, int threads);
/// The vector as a matrix of `rows` equal rows.
Tensor repeated(const Tensor& vector, int64_t rows);

}  // namespace tessera
