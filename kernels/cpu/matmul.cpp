// Linear layers: which way each product goes, and how its result meets biases and gradients.
#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "kernels/cpu/bf16_matmul.h"
#include "kernels/cpu/converted_matmul.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/library_matmul.h"
#include "kernels/cpu/matmul_loops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/workspace.h"

namespace tessera {
namespace {

/// Ways to multiply, by the names of the tuning table. The last three read a packed weight.
enum class Kernel : uint8_t { Sgemm, Primitive, Converted, Avx512Bf16, Amx, PackedPrimitive, PackedAvx512Bf16, PackedAmx };
constexpr std::array<const char*, 8> kernel_names = {"sgemm", "primitive",        "converted",          "avx512-bf16",
                                                     "amx",   "packed primitive", "packed avx512-bf16", "packed amx"};

/// The workspace begins with fp32 sums on their way to a 16-bit result or a gradient; behind them stand packed or converted panels, or what
/// oneDNN wants to note down.
class CpuMatmulOps : public MatmulOps {
 public:
  CpuMatmulOps(int threads, const Tensor& workspace) : threads_(threads), workspace_(workspace) {}

  std::vector<std::string> candidates(OpKind kind, const ShapeKey& shape) const override {
    std::vector<std::string> names;
    for (const Kernel kernel : kernels_for(kind, shape)) names.emplace_back(kernel_names[static_cast<size_t>(kernel)]);
    return names;
  }

  std::string choice(OpKind kind, const ShapeKey& shape) const override {
    return kernel_names[static_cast<size_t>(kernel_for(kind, shape))];
  }

  void choose(OpKind kind, const ShapeKey& shape, const std::string& candidate) override {
    const auto known = std::ranges::find(kernel_names, candidate);
    invariant(known != kernel_names.end(), "linear layers know no such candidate");
    choices_[{kind, shape}] = static_cast<Kernel>(known - kernel_names.begin());
  }

 private:
  /// The first is the rule: what was faster wherever it was measured. Where the weight is packed too, a kernel that reads it so comes first.
  std::vector<Kernel> kernels_for(OpKind kind, const ShapeKey& shape) const {
    const bool gradient = kind == OpKind::LinearBackwardWeight, packed = !gradient && shape.extents[4] != 0;
    const DType dtype = shape.dtype;
    if (dtype == DType::f32) {
      // sgemm adds to a gradient by itself; a primitive's product would need a pass of its own.
      const bool adds = shape.extents[4] == key_of(GradientWrite::Add);
      if (gradient && adds) return {Kernel::Sgemm};
      return {Kernel::Sgemm, Kernel::Primitive};
    }
    std::vector<Kernel> kernels;
    const auto add = [&](Kernel plain, Kernel from_packed) {
      if (packed) kernels.push_back(from_packed);
      kernels.push_back(plain);
    };
    const bool fast = library_.multiplies_fast(dtype);
    if (fast) add(Kernel::Primitive, Kernel::PackedPrimitive);
    kernels.push_back(Kernel::Converted);
    if (!fast && library_.multiplies(dtype)) add(Kernel::Primitive, Kernel::PackedPrimitive);
    if (dtype == DType::bf16 && has_bf16_matmul()) {
      for (const Bf16Kernel own : bf16_kernel_candidates()) {
        if (own == Bf16Kernel::Avx512Bf16) add(Kernel::Avx512Bf16, Kernel::PackedAvx512Bf16);
        if (own == Bf16Kernel::Amx) add(Kernel::Amx, Kernel::PackedAmx);
      }
    }
    return kernels;
  }

  Kernel kernel_for(OpKind kind, const ShapeKey& shape) const {
    const auto chosen = choices_.find({kind, shape});
    return chosen == choices_.end() ? kernels_for(kind, shape).front() : chosen->second;
  }

  void do_linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Tensor packed, Stream&) override {
    const ShapeKey shape = linear_shape(x.rows(), x.columns(), y.columns(), bias, packed, x.dtype);
    multiply(kernel_for(OpKind::LinearForward, shape),
             {.c = y, .a = x, .b = weight, .bias = bias, .packed_b = packed, .transpose_b = true});
  }

  void do_linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Tensor packed, Stream&) override {
    const ShapeKey shape = linear_shape(dx.rows(), dx.columns(), dy.columns(), {}, packed, dy.dtype);
    multiply(kernel_for(OpKind::LinearBackwardInput, shape), {.c = dx, .a = dy, .b = weight, .packed_b = packed});
  }

  void do_pack_weight(Tensor packed, Tensor weight, PackedFor use, Stream&) override {
    pack_bf16(packed, weight, use == PackedFor::Forward, threads_);
  }

  void do_linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                                 Stream&) override {
    const ShapeKey shape = linear_gradient_shape(x.rows(), x.columns(), dy.columns(), dbias, write, x.dtype);
    const Kernel kernel = kernel_for(OpKind::LinearBackwardWeight, shape);
    const bool adds = write == GradientWrite::Add;
    // A primitive is faster when it overwrites, and bf16 sums must be rounded in our own way.
    if (dweight.dtype == DType::f32 && !(adds && kernel == Kernel::Primitive)) {
      multiply(kernel, {.c = dweight, .a = dy, .b = x, .transpose_a = true, .accumulate = adds, .read_late = true});
    } else {
      write_product(kernel, dweight, dy, x, write, rounding);
    }
    if (!dbias.empty()) {
      constexpr int64_t grain = 64;  // whole cache lines in every type
      parallel_ranges(dbias.elements(), grain, dy.rows(), threads_, [&](int64_t begin, int64_t end) {
        bias_gradient_columns(dbias, dy, write, rounding, static_cast<uint64_t>(dweight.elements()), begin, end);
      });
    }
  }

  size_t panel_bytes() const { return static_cast<size_t>(threads_ * packing_bytes); }
  std::span<float> sums() const { return as_floats(workspace_.whole().first(workspace_.whole().size() - panel_bytes())); }
  std::span<std::byte> panels() const { return workspace_.whole().last(panel_bytes()); }

  void multiply(Kernel kernel, MatmulProduct product) {
    if (kernel < Kernel::PackedPrimitive) product.packed_b = {};
    switch (kernel) {
      case Kernel::Sgemm:
        return multiply_fp32_with_bias(product);
      case Kernel::Primitive:
      case Kernel::PackedPrimitive:
        return library_.multiply(product, panels());
      case Kernel::Converted: {
        const std::span<std::byte> both = panels(), a = both.first(both.size() / 2), b = both.last(both.size() / 2);
        return ConvertedMatmul({.a = as_floats(a), .b = as_floats(b), .c = sums()}, threads_).multiply(product);
      }
      case Kernel::Avx512Bf16:
      case Kernel::PackedAvx512Bf16:
        return multiply_bf16(product, panels(), threads_, Bf16Kernel::Avx512Bf16);
      case Kernel::Amx:
      case Kernel::PackedAmx:
        return multiply_bf16(product, panels(), threads_, Bf16Kernel::Amx);
    }
  }

  void multiply_fp32_with_bias(MatmulProduct product) const {
    if (!product.bias.empty()) {
      convert_rows(product.c, repeated(product.bias, product.c.rows()), threads_);
      product.accumulate = true;
    }
    multiply_fp32(product);
  }

  /// dweight = or += dy^T x, as many rows at a time as the workspace holds.
  void write_product(Kernel kernel, const Tensor& dweight, const Tensor& dy, const Tensor& x, GradientWrite write,
                     const RandomStream& rounding) {
    const std::span<float> room = this->sums();
    const int64_t O = dweight.rows(), I = dweight.columns(), rows = std::min(O, static_cast<int64_t>(room.size()) / I);
    invariant(rows > 0, "a row of a weight is longer than the matmuls' workspace");
    for (int64_t first = 0; first < O; first += rows) {
      const int64_t count = std::min(rows, O - first);
      const Tensor sums(room.data(), DType::f32, {count, I}), to = dweight.row_range(first, first + count);
      multiply(kernel, {.c = sums, .a = dy.column_range(first, first + count), .b = x, .transpose_a = true});
      parallel_ranges(count, 1, I, threads_, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
          write_gradient_range(to.row_range(r, r + 1).data, to.dtype, sums.row_range(r, r + 1).as<float>(), I, write, rounding,
                               static_cast<uint64_t>((first + r) * I));
        }
      });
    }
  }

  int threads_;
  Workspace workspace_;
  LibraryMatmul library_;
  std::map<std::pair<OpKind, ShapeKey>, Kernel> choices_;  // where the rule was not taken
};

}  // namespace

bool processor_packs_weights() { return has_bf16_matmul(); }
bool processor_gains_by_packed_weights() { return bf16_kernel_candidates().front() == Bf16Kernel::Amx; }

std::unique_ptr<MatmulOps> make_cpu_matmul_ops(int threads, const Tensor& workspace) {
  return std::make_unique<CpuMatmulOps>(threads, workspace);
}

}  // namespace tessera
