#pragma once
#include <cublasLt.h>

#include <compare>
#include <cstddef>
#include <map>
#include <memory>
#include <span>

#include "kernels/tensor.h"

namespace tessera {

/// One matrix product, row-major: c = a b + bias (the same for every row, or empty), or c += a b. Rows may lie apart.
/// c [m, n], a [m, k], b [k, n], bias [n] of c's type; a transposed factor is stored as [its columns, its rows].
struct BlasProduct {
  Tensor c, a, b;
  Tensor bias = {};
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;

  int64_t m() const { return c.rows(); }
  int64_t n() const { return c.columns(); }
  int64_t k() const { return transpose_a ? a.rows() : a.columns(); }
};

/// Matrix products by cuBLASLt. Sums are made in fp32, a bias is added to them, and the result is rounded once. What the library must be told,
/// and the algorithms that it offers, are kept for each distinct product.
class BlasMatmul {
 public:
  /// The most algorithms that are asked for.
  static constexpr int most_algorithms = 8;

  explicit BlasMatmul(cublasLtHandle_t handle);
  ~BlasMatmul();
  BlasMatmul(const BlasMatmul&) = delete;

  /// How many algorithms the library offers for a product with so much memory, the one that it thinks fastest first. Tensors need no data:
  /// those without are taken as aligned. InternalError where it offers none.
  int algorithms(const BlasProduct& product, int64_t workspace_bytes);
  /// Enqueues the product. Where an operand's strides or alignment leave fewer algorithms, one that is not there is the first.
  void multiply(const BlasProduct& product, int algorithm, std::span<std::byte> workspace, cudaStream_t stream);

 private:
  /// What algorithms depend on. The alignments are those of the addresses in bytes, powers of two up to an arena's.
  struct Key {
    DType of_factors, of_result;
    bool transpose_a, transpose_b, biased;
    int64_t m, n, k, a_stride, b_stride, c_stride;
    uint32_t a_alignment, b_alignment, c_alignment;
    int64_t workspace_bytes;
    auto operator<=>(const Key&) const = default;
  };
  struct Plan;

  static Key key_of(const BlasProduct& product, int64_t workspace_bytes);
  Plan& plan_of(const BlasProduct& product, int64_t workspace_bytes);

  cublasLtHandle_t handle_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace tessera
