// Linear layers through oneDNN's sgemm, and the sums over rows that bias gradients are.
#include <dnnl.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t column_block = 128;  // what one thread sums at a time: whole cache lines, and enough of a row to be fetched ahead

/// sums[i] += matrix[0][i] + matrix[1][i] + ... for i in [0, width), width <= column_block. Rows are added in groups, whose sums are added
/// in turn: one long sum would round more, and the groups do not depend on the number of threads.
void add_rows(float* sums, const float* matrix, int64_t row_stride, int64_t rows, int64_t width) {
  constexpr int64_t group = 128;
  alignas(64) float group_sums[column_block];
  const auto add = [](float* to, const float* from, int64_t n) HWY_ATTR {
    for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, from + i)), d, to + i); });
  };
  for (int64_t begin = 0; begin < rows; begin += group) {
    std::fill_n(group_sums, width, 0.0f);
    for (int64_t row = begin; row < std::min(rows, begin + group); row++) add(group_sums, matrix + row * row_stride, width);
    add(sums, group_sums, width);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(add_rows);

namespace {

/// c = a b + beta c, row-major; a transposed matrix is stored as [its columns, its rows].
void sgemm(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, const Tensor& a, const Tensor& b, float beta,
           const Tensor& c) {
  const dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, m, n, k, 1.0f, a.as<float>(), a.row_stride(), b.as<float>(),
                                          b.row_stride(), beta, c.as<float>(), c.row_stride());
  invariant(status == dnnl_success, "oneDNN refused a matmul");
}

class CpuMatmulOps : public MatmulOps {
 public:
  explicit CpuMatmulOps(int threads) : threads_(threads) {}

 private:
  void do_linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Stream&) override {
    if (!bias.empty()) fill_rows(y, bias);
    sgemm('N', 'T', y.rows(), y.columns(), x.columns(), x, weight, bias.empty() ? 0.0f : 1.0f, y);
  }

  void do_linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Stream&) override {
    sgemm('N', 'N', dx.rows(), dx.columns(), dy.columns(), dy, weight, 0.0f, dx);
  }

  void do_linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, Stream&) override {
    sgemm('T', 'N', dweight.rows(), dweight.columns(), x.rows(), dy, x, 1.0f, dweight);
    if (!dbias.empty()) add_columns(dbias, dy);
  }

  void fill_rows(const Tensor& y, const Tensor& row) const {
    const float* from = row.as<float>();
    float* to = y.as<float>();
    const int64_t rows = y.rows(), stride = y.row_stride(), width = y.columns();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t r = 0; r < rows; r++) std::copy_n(from, width, to + r * stride);
  }

  void add_columns(const Tensor& sums, const Tensor& matrix) const {
    constexpr int64_t block = HWY_STATIC_DISPATCH(column_block);
    float* to = sums.as<float>();
    const float* from = matrix.as<float>();
    const int64_t rows = matrix.rows(), stride = matrix.row_stride(), width = matrix.columns();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t begin = 0; begin < width; begin += block) {
      HWY_DYNAMIC_DISPATCH(add_rows)(to + begin, from + begin, stride, rows, std::min(block, width - begin));
    }
  }

  int threads_;
};

}  // namespace

std::unique_ptr<MatmulOps> make_cpu_matmul_ops(int threads) { return std::make_unique<CpuMatmulOps>(threads); }

}  // namespace tessera
#endif
