// Linear layers: which way each product goes, and how its result meets biases and gradients.
#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/converted_matmul.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/library_matmul.h"
#include "kernels/cpu/matmul_loops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/workspace.h"

namespace tessera {
namespace {

/// Half of it holds fp32 sums on their way to a 16-bit result or a gradient, the other half two converted panels.
constexpr int64_t workspace_floats_per_thread = (int64_t{16} << 20) / static_cast<int64_t>(sizeof(float));

class CpuMatmulOps : public MatmulOps {
 public:
  explicit CpuMatmulOps(int threads)
      : threads_(threads),
        workspace_(workspace_floats_per_thread * threads),
        sums_(workspace_.part(0, 2)),
        converted_({.a = workspace_.part(2, 4), .b = workspace_.part(3, 4), .c = sums_}, threads) {}

 private:
  void do_linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Stream&) override {
    multiply({.c = y, .a = x, .b = weight, .bias = bias, .transpose_b = true});
  }

  void do_linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Stream&) override { multiply({.c = dx, .a = dy, .b = weight}); }

  void do_linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, RandomStream rounding, Stream&) override {
    // sgemm adds by itself; what else multiplies is faster when it overwrites, and bf16 sums must be rounded in our own way.
    if (dweight.dtype == DType::f32 && !library_.multiplies(x.dtype)) {
      multiply({.c = dweight, .a = dy, .b = x, .transpose_a = true, .accumulate = true});
    } else {
      add_product(dweight, dy, x, rounding);
    }
    if (!dbias.empty()) {
      constexpr int64_t grain = 64;  // whole cache lines in every type
      parallel_ranges(dbias.elements(), grain, dy.rows(), threads_, [&](int64_t begin, int64_t end) {
        add_bias_gradient_columns(dbias, dy, rounding, static_cast<uint64_t>(dweight.elements()), begin, end);
      });
    }
  }

  void multiply(const MatmulProduct& product) {
    if (product.a.dtype == DType::f32) {
      multiply_fp32_with_bias(product);
    } else if (library_.multiplies(product.a.dtype)) {
      library_.multiply(product);
    } else {
      converted_.multiply(product);
    }
  }

  void multiply_fp32_with_bias(MatmulProduct product) const {
    if (!product.bias.empty()) {
      convert_rows(product.c, repeated(product.bias, product.c.rows()), threads_);
      product.accumulate = true;
    }
    multiply_fp32(product);
  }

  /// dweight += dy^T x, as many rows at a time as the workspace holds.
  void add_product(const Tensor& dweight, const Tensor& dy, const Tensor& x, const RandomStream& rounding) {
    const int64_t O = dweight.rows(), I = dweight.columns(), rows = std::min(O, static_cast<int64_t>(sums_.size()) / I);
    invariant(rows > 0, "a row of a weight is longer than the matmuls' workspace");
    for (int64_t first = 0; first < O; first += rows) {
      const int64_t count = std::min(rows, O - first);
      const Tensor sums(sums_.data(), DType::f32, {count, I}), to = dweight.row_range(first, first + count);
      multiply({.c = sums, .a = dy.column_range(first, first + count), .b = x, .transpose_a = true});
      parallel_ranges(count, 1, I, threads_, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
          add_to_gradient_range(to.row_range(r, r + 1).data, to.dtype, sums.row_range(r, r + 1).as<float>(), I, rounding,
                                static_cast<uint64_t>((first + r) * I));
        }
      });
    }
  }

  int threads_;
  Workspace workspace_;
  std::span<float> sums_;
  LibraryMatmul library_;
  ConvertedMatmul converted_;
};

}  // namespace

std::unique_ptr<MatmulOps> make_cpu_matmul_ops(int threads) { return std::make_unique<CpuMatmulOps>(threads); }

}  // namespace tessera
