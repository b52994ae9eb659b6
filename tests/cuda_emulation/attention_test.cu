// Attention's kernels by themselves, under the sanitizers too: what the op tests (tests/attention_ops_test.cpp) do not reach.
#include <cmath>

#include "kernels/cuda/attention_operands.h"
#include "kernels/cuda/vector_access.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

/// Bits of all results of a forward and a backward, rows of heads in order.
struct Results {
  std::vector<float> y, lse, dq, dk, dv;
  bool operator==(const Results&) const = default;
};

/// A matrix of [rows, columns] whose rows begin `offset` elements into memory and are `padding` elements apart.
template <class T>
class Matrix {
 public:
  Matrix(int64_t rows, int64_t columns, int64_t offset, int64_t padding, unsigned seed)
      : rows_(rows), columns_(columns), offset_(offset), stride_(columns + padding), memory_(filled(seed)) {}
  operator HeadMatrix<const T>() const { return {memory_.data() + offset_, stride_}; }
  operator HeadMatrix<T>() const { return {memory_.data() + offset_, stride_}; }
  std::vector<float> values() const {
    std::vector<float> values;
    const std::vector<T> all = memory_.values();
    for (int64_t i = 0; i < rows_ * columns_; i++)
      values.push_back(to_float(all[static_cast<size_t>(offset_ + i / columns_ * stride_ + i % columns_)]));
    return values;
  }

 private:
  /// Exactly as much memory as there must be: what lies behind the last row is out of bounds.
  std::vector<T> filled(unsigned seed) const {
    std::vector<T> all(static_cast<size_t>(offset_ + (rows_ - 1) * stride_ + columns_));
    const std::vector<float> random = random_floats(static_cast<size_t>(rows_ * columns_), seed);
    for (int64_t i = 0; i < rows_ * columns_; i++)
      all[static_cast<size_t>(offset_ + i / columns_ * stride_ + i % columns_)] = from_float<T>(random[static_cast<size_t>(i)]);
    return all;
  }
  int64_t rows_, columns_, offset_, stride_;
  DeviceVector<T> memory_;
};

template <class T>
Results run(const AttentionShape& s, int64_t offset, int64_t padding) {
  const int64_t N = s.B * s.T, Q = s.A * s.D, KV = s.K * s.D;
  const auto matrix = [&](int64_t columns, unsigned seed) { return Matrix<T>(N, columns, offset, padding, seed); };
  const TestStream stream;
  const Matrix<T> q = matrix(Q, 1), k = matrix(KV, 2), v = matrix(KV, 3), dy = matrix(Q, 4), y = matrix(Q, 5), dq = matrix(Q, 6),
                  dk = matrix(KV, 7), dv = matrix(KV, 8);
  const DeviceVector<float> lse(static_cast<size_t>(s.B * s.A * s.T)), delta(lse.size());
  AttentionOperands<T> o{.shape = s};
  o.q = q, o.k = k, o.v = v, o.dy = dy, o.y = y, o.dq = dq, o.dk = dk, o.dv = dv;
  o.lse = lse.data(), o.delta = delta.data();
  o.packed = offset % pack_size<T> == 0 && padding % pack_size<T> == 0;
  attention_forward(o, stream);
  attention_backward(o, stream);
  stream.synchronize();
  return {y.values(), lse.values(), dq.values(), dk.values(), dv.values()};
}

template <class T>
class AttentionKernels : public testing::Test {};
using Types = testing::Types<float, __nv_bfloat16, __half>;
TYPED_TEST_SUITE(AttentionKernels, Types);

// Two tiles, the second of one row; two query heads a key head; columns that fill up no product of 16.
TYPED_TEST(AttentionKernels, RowsThatBeginAnywhereGiveTheSameBits) {
  const AttentionShape s{.B = 1, .T = 65, .A = 2, .K = 1, .D = 24};
  const Results packed = run<TypeParam>(s, 0, 0);
  EXPECT_TRUE(run<TypeParam>(s, 3, 5) == packed);
  EXPECT_TRUE(run<TypeParam>(s, 8, 8) == packed);
  for (const float value : packed.dk) EXPECT_TRUE(std::isfinite(value));
}

// Heads of 256 columns: one stage of tiles, and two blocks for the gradients of a tile of keys.
TYPED_TEST(AttentionKernels, WideHeadsRepeatTheirBits) {
  const AttentionShape s{.B = 1, .T = 33, .A = 1, .K = 1, .D = 136};
  EXPECT_TRUE(run<TypeParam>(s, 0, 0) == run<TypeParam>(s, 8, 0));
}

}  // namespace
}  // namespace tessera::cuda
