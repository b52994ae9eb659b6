// Linear layers by cuBLASLt: which algorithm each product takes, and how its result meets biases and gradients.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "kernels/cuda/blas_matmul.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/matmul_loops.h"

namespace tessera {
namespace {

BlasProduct forward_product(Tensor y, Tensor x, Tensor weight, Tensor bias) {
  return {.c = y, .a = x, .b = weight, .bias = bias, .transpose_b = true};
}
BlasProduct input_product(Tensor dx, Tensor dy, Tensor weight) { return {.c = dx, .a = dy, .b = weight}; }
BlasProduct weight_product(Tensor dweight, Tensor dy, Tensor x) { return {.c = dweight, .a = dy, .b = x, .transpose_a = true}; }

/// What the op multiplies, with dense operands that have no memory: enough to ask for algorithms.
BlasProduct dense_product(OpKind kind, const ShapeKey& shape) {
  const auto [N, I, O, biased, flag] = shape.extents;
  const Tensor x(nullptr, shape.dtype, {N, I}), y(nullptr, shape.dtype, {N, O});
  if (kind == OpKind::LinearBackwardWeight) return weight_product(Tensor(nullptr, DType::f32, {O, I}), y, x);
  const Tensor weight(nullptr, shape.dtype, {O, I});
  if (kind == OpKind::LinearBackwardInput) return input_product(x, y, weight);
  return forward_product(y, x, weight, biased ? Tensor(nullptr, shape.dtype, {O}) : Tensor());
}

/// An algorithm is named by its place in the list of the library's heuristics: the same list from the same version on the same GPU.
const std::string name_begins = "heuristic ";
std::string name_of_algorithm(int algorithm) { return name_begins + std::to_string(algorithm); }

/// Of a gradient's rows: a multiple of this many at a time keeps the library's tiles whole.
constexpr int64_t tile_rows = 128;

class CudaMatmulOps final : public MatmulOps {
 public:
  explicit CudaMatmulOps(const CudaContext& context) : context_(context), blas_(context.blas) {}

  std::vector<std::string> candidates(OpKind kind, const ShapeKey& shape) const override {
    std::vector<std::string> names;
    const int count = blas_.algorithms(dense_product(kind, shape), context_.workspace.bytes());
    for (int algorithm = 0; algorithm < count; algorithm++) names.push_back(name_of_algorithm(algorithm));
    return names;
  }

  std::string choice(OpKind kind, const ShapeKey& shape) const override { return name_of_algorithm(algorithm_for(kind, shape)); }

  void choose(OpKind kind, const ShapeKey& shape, const std::string& candidate) override {
    int algorithm = 0;
    while (algorithm < BlasMatmul::most_algorithms && name_of_algorithm(algorithm) != candidate) algorithm++;
    invariant(algorithm < BlasMatmul::most_algorithms, "linear layers know no such candidate");
    choices_[{kind, shape}] = algorithm;
  }

 private:
  int algorithm_for(OpKind kind, const ShapeKey& shape) const {
    const auto chosen = choices_.find({kind, shape});
    return chosen == choices_.end() ? 0 : chosen->second;
  }

  std::span<std::byte> workspace() const {
    const Tensor& memory = context_.workspace;
    return {static_cast<std::byte*>(memory.data), static_cast<size_t>(memory.bytes())};
  }

  void do_linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Tensor packed, Stream& stream) override {
    expect_not_packed(packed);
    const int algorithm = algorithm_for(OpKind::LinearForward, linear_shape(x.rows(), x.columns(), y.columns(), bias, {}, x.dtype));
    blas_.multiply(forward_product(y, x, weight, bias), algorithm, workspace(), cuda_stream(stream));
  }

  void do_linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Tensor packed, Stream& stream) override {
    expect_not_packed(packed);
    const int algorithm = algorithm_for(OpKind::LinearBackwardInput, linear_shape(dx.rows(), dx.columns(), dy.columns(), {}, {}, dy.dtype));
    blas_.multiply(input_product(dx, dy, weight), algorithm, workspace(), cuda_stream(stream));
  }

  void do_linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                                 Stream& stream) override {
    const int algorithm =
        algorithm_for(OpKind::LinearBackwardWeight, linear_gradient_shape(x.rows(), x.columns(), dy.columns(), dbias, write, x.dtype));
    if (dweight.dtype == DType::f32) {
      BlasProduct product = weight_product(dweight, dy, x);
      product.accumulate = write == GradientWrite::Add;
      blas_.multiply(product, algorithm, workspace(), cuda_stream(stream));
    } else {
      write_rounded_product(algorithm, dweight, dy, x, write, rounding, cuda_stream(stream));
    }
    if (dbias.empty()) return;
    write_column_sums(dbias, dy, write, rounding, static_cast<uint64_t>(dweight.elements()), workspace(), cuda_stream(stream));
  }

  void do_pack_weight(Tensor packed, Tensor, PackedFor, Stream&) override { expect_not_packed(packed); }

  static void expect_not_packed(const Tensor& packed) { invariant(packed.empty(), "packed weights are for processors, not for GPUs"); }

  /// dweight [O, I] bf16 = or += dy^T x: sums in fp32, as many rows at a time as half of the workspace holds; the library has the other half.
  void write_rounded_product(int algorithm, const Tensor& dweight, const Tensor& dy, const Tensor& x, GradientWrite write,
                             const RandomStream& rounding, cudaStream_t stream) {
    const std::span<std::byte> all = workspace(), room = all.first(all.size() / 2);
    const int64_t O = dweight.rows(), I = dweight.columns();
    int64_t rows = static_cast<int64_t>(room.size() / sizeof(float)) / I;
    if (rows == 0) throw InternalError(fmt::format("a row of the weight gradient [{}, {}] is longer than the matmuls' workspace", O, I));
    if (rows > tile_rows) rows -= rows % tile_rows;
    auto* memory = reinterpret_cast<float*>(room.data());
    for (int64_t begin = 0; begin < O; begin += rows) {
      const int64_t end = std::min(O, begin + rows);
      const Tensor sums(memory, DType::f32, {end - begin, I});
      blas_.multiply(weight_product(sums, dy.column_range(begin, end), x), algorithm, all.subspan(room.size()), stream);
      write_sums(dweight.flat_range(begin * I, end * I), memory, write, rounding, static_cast<uint64_t>(begin * I), stream);
    }
  }

  const CudaContext& context_;
  mutable BlasMatmul blas_;                             // algorithms are looked for when they are first asked for
  std::map<std::pair<OpKind, ShapeKey>, int> choices_;  // where the first was not taken
};

}  // namespace

std::unique_ptr<MatmulOps> make_cuda_matmul_ops(const CudaContext& context) { return std::make_unique<CudaMatmulOps>(context); }

}  // namespace tessera
