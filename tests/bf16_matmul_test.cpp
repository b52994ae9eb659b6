#include "kernels/cpu/bf16_matmul.h"

#include <algorithm>

#include "base/error.h"
#include "base/packed_weight.h"
#include "kernels/cpu/workspace.h"
#include "tests/op_test.h"

namespace tessera::op_test {
namespace {

/// The three products of a linear layer with I inputs and O outputs on N rows.
enum class LayerUse { Forward, ForwardWithBias, InputGradient, WeightGradient, AddedWeightGradient };

struct LayerCase {
  LayerUse use;
  int64_t m, n, k;
};

/// A matrix whose rows lie `gap` elements apart, filled with random numbers, and with 7 between the rows.
Tensor matrix(TestDevice& device, int64_t rows, int64_t columns, int64_t gap, const char* name, DType dtype = DType::bf16) {
  const Tensor wide = device.tensor({rows, columns + gap}, std::vector<float>(rows * (columns + gap), 7), dtype);
  return device.columns(wide, 0, columns, random_values(rows * columns, name));
}

struct Outcome {
  std::vector<float> before, a, b, bias, c;
  int64_t around;  // elements between c's rows that have changed
};

Outcome run(const LayerCase& x, int threads, Bf16Kernel kernel, int64_t gap, bool packed = false) {
  TestDevice device = TestDevice::cpu(threads);
  const bool weight = x.use == LayerUse::WeightGradient || x.use == LayerUse::AddedWeightGradient;
  const bool forward = x.use == LayerUse::Forward || x.use == LayerUse::ForwardWithBias;
  MatmulProduct p{.transpose_a = weight, .transpose_b = forward, .accumulate = x.use == LayerUse::AddedWeightGradient};
  p.a = weight ? matrix(device, x.k, x.m, gap, "a") : matrix(device, x.m, x.k, gap, "a");
  p.b = forward ? matrix(device, x.n, x.k, gap, "b") : matrix(device, x.k, x.n, gap, "b");
  const Tensor wide = device.tensor({x.m, x.n + gap}, std::vector<float>(x.m * (x.n + gap), 7), weight ? DType::f32 : DType::bf16);
  p.c = device.columns(wide, 0, x.n, random_values(x.m * x.n, "c"));
  if (x.use == LayerUse::ForwardWithBias) p.bias = device.tensor({x.n}, random_values(x.n, "bias"), DType::bf16);
  Outcome result{.before = device.values(p.c), .a = device.values(p.a), .b = device.values(p.b)};
  if (!p.bias.empty()) result.bias = device.values(p.bias);
  const Tensor workspace = device.tensor({threads * packing_bytes / 4}), behind = device.tensor({int64_t{1} << 20});
  if (packed) {
    p.packed_b = device.tensor({packed_elements(x.k, x.n)}, std::vector<float>(packed_elements(x.k, x.n), 7), DType::bf16);
    pack_bf16(p.packed_b, p.b, p.transpose_b, threads);
  }
  multiply_bf16(p, {static_cast<std::byte*>(workspace.data), static_cast<size_t>(workspace.bytes())}, threads, kernel);
  EXPECT_EQ(device.values(behind), std::vector<float>(behind.elements())) << "behind the workspace";
  result.c = device.values(p.c);
  const auto all = device.values(wide);
  for (int64_t row = 0; row < x.m; row++) {
    for (int64_t i = x.n; i < x.n + gap; i++) result.around += all[row * (x.n + gap) + i] != 7;
  }
  return result;
}

/// Of the sum in fp64: k + 1 roundings to fp32 of at most the terms' magnitudes, and one to bf16 where c is bf16.
void expect_close(const LayerCase& x, const Outcome& run) {
  const bool weight = x.use == LayerUse::WeightGradient || x.use == LayerUse::AddedWeightGradient;
  const bool forward = x.use == LayerUse::Forward || x.use == LayerUse::ForwardWithBias;
  double worst = 0;
  for (int64_t i = 0; i < x.m; i++) {
    for (int64_t j = 0; j < x.n; j++) {
      double sum = x.use == LayerUse::AddedWeightGradient ? run.before[i * x.n + j] : run.bias.empty() ? 0 : run.bias[j];
      double magnitude = std::abs(sum);
      for (int64_t k = 0; k < x.k; k++) {
        const double term = double{run.a[weight ? k * x.m + i : i * x.k + k]} * run.b[forward ? j * x.k + k : k * x.n + j];
        sum += term, magnitude += std::abs(term);
      }
      const double bound = 0x1p-24 * static_cast<double>(x.k + 1) * magnitude;
      const double rounding = weight ? 0 : epsilon_of(DType::bf16) / 2 * (std::abs(sum) + bound);
      worst = std::max(worst, std::abs(run.c[i * x.n + j] - sum) / (bound + rounding));
    }
  }
  EXPECT_LE(worst, 1);
  EXPECT_EQ(run.around, 0) << "elements between the rows of c have changed";
}

class Bf16Matmul : public testing::TestWithParam<std::tuple<LayerUse, Bf16Kernel>> {};

TEST_P(Bf16Matmul, EverySizeIsAsExactAsSumsInFp32AtAnyNumberOfThreads) {
  const auto& [use, kernel] = GetParam();
  const auto usable = bf16_kernel_candidates();
  if (kernel != Bf16Kernel::EmulatedAmx && std::find(usable.begin(), usable.end(), kernel) == usable.end()) {
    GTEST_SKIP() << "this machine has no " << name_of(kernel);
  }
  if (!has_bf16_matmul()) GTEST_SKIP() << "this machine has no AVX-512";
  const int64_t sizes[][3] = {{1, 1, 1},      {1, 40, 33},     {16, 32, 32},    {33, 65, 31},   {130, 97, 77},
                              {70, 130, 600}, {160, 64, 96},   {64, 160, 1025}, {17, 1100, 40}, {3, 550, 3100},
                              {40, 5, 3200},  {130, 9000, 40}, {33, 17001, 6}};
  for (const auto& [m, n, k] : sizes) {
    for (const int64_t gap : {0, 5}) {
      SCOPED_TRACE(testing::Message() << m << " x " << n << ", depth " << k << ", " << gap << " elements between rows");
      const LayerCase layer{use, m, n, k};
      const Outcome first = run(layer, 1, kernel, gap);
      expect_close(layer, first);
      const int threads = gap == 0 ? 2 : 3;
      EXPECT_TRUE(run(layer, threads, kernel, gap).c == first.c) << threads << " threads";
      EXPECT_TRUE(run(layer, threads, kernel, gap, true).c == first.c) << threads << " threads, from panels";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Bf16Matmul,
                         testing::Combine(testing::Values(LayerUse::Forward, LayerUse::ForwardWithBias, LayerUse::InputGradient,
                                                          LayerUse::WeightGradient, LayerUse::AddedWeightGradient),
                                          testing::Values(Bf16Kernel::Avx512Bf16, Bf16Kernel::Amx, Bf16Kernel::EmulatedAmx)));

TEST(Bf16MatmulChecks, WhatItCannotDoIsAnInternalError) {
  TestDevice device = TestDevice::cpu(1);
  const Tensor a = device.tensor({4, 4}, DType::bf16), bf16 = device.tensor({4, 4}, DType::bf16), fp32 = device.tensor({4, 4});
  std::vector<std::byte> small(64);
  EXPECT_THROW(multiply_bf16({.c = bf16, .a = a, .b = a}, small, 1, Bf16Kernel::EmulatedAmx), InternalError);
  const Tensor memory = device.tensor({packing_bytes / 4});
  const std::span<std::byte> workspace{static_cast<std::byte*>(memory.data), static_cast<size_t>(memory.bytes())};
  EXPECT_THROW(multiply_bf16({.c = bf16, .a = a, .b = a, .accumulate = true}, workspace, 1, Bf16Kernel::EmulatedAmx), InternalError);
  EXPECT_THROW(multiply_bf16({.c = fp32, .a = a, .b = a, .bias = bf16.row_range(0, 1)}, workspace, 1, Bf16Kernel::EmulatedAmx),
               InternalError);
}

}  // namespace
}  // namespace tessera::op_test
