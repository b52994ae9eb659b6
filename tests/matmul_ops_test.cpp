#include "kernels/matmul_ops.h"

#include "base/error.h"
#include "base/packed_weight.h"
#include "tests/op_test.h"
#include "tests/reference.h"

namespace tessera::op_test {
namespace {

struct Sizes {
  int64_t N, I, O;
};

constexpr OpKind linear_kinds[] = {OpKind::LinearForward, OpKind::LinearBackwardInput, OpKind::LinearBackwardWeight};

bool can_be_packed(DType dtype) { return dtype == DType::bf16 && kind_under_test() == DeviceKind::Cpu && processor_packs_weights(); }

/// `weight` [O, I] in panels; empty where the machine has no use for them.
Tensor packed(TestDevice& device, const Tensor& weight, PackedFor use) {
  if (!can_be_packed(weight.dtype)) return {};
  const Tensor panels = device.tensor({packed_elements(weight.rows(), weight.columns())}, DType::bf16);
  device->matmul().pack_weight(panels, weight, use, device.stream());
  return panels;
}

/// Every way in which the device computes some linear op of this type; the weight is packed too, where it can be.
std::vector<std::string> ways_to_multiply(TestDevice& device, DType dtype) {
  std::vector<std::string> names;
  for (const OpKind kind : linear_kinds) {
    for (const std::string& name : device->matmul().candidates(kind, {{1, 1, 1, 0, can_be_packed(dtype)}, dtype})) {
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  return names;
}

/// Linear ops of these sizes are computed that way from here on, where they can be.
void choose(TestDevice& device, const std::string& way, Sizes sizes, DType dtype) {
  for (const OpKind kind : linear_kinds) {
    for (const int64_t flags : {0, 1, 2, 3}) {  // bias; packed, or added
      const ShapeKey shape{{sizes.N, sizes.I, sizes.O, flags & 1, flags >> 1}, dtype};
      const auto known = device->matmul().candidates(kind, shape);
      if (std::ranges::find(known, way) != known.end()) device->matmul().choose(kind, shape, way);
    }
  }
}

/// Emulated products are plain loops.
Sizes under_test(Sizes sizes) {
  return emulated() ? Sizes{sizes.N, std::min<int64_t>(sizes.I, 96), std::min<int64_t>(sizes.O, 67)} : sizes;
}

/// Random operands in the type under test; references see the rounded values.
class MatmulOps : public testing::TestWithParam<std::tuple<Sizes, DType>> {
 protected:
  std::vector<float> values(int64_t count, const char* name) const { return rounded_to(dtype, random_values(count, name)); }
  Tensor tensor(Shape shape, const std::vector<float>& of) { return device.tensor(shape, of, dtype); }
  Tensor packed_for(PackedFor use) { return packed(device, tensor({O, I}, weight), use); }
  /// body() with each way in which the device can compute it.
  template <class Body>
  void for_each_way(Body body) {
    for (const std::string& way : ways_to_multiply(device, dtype)) {
      SCOPED_TRACE(way);
      choose(device, way, {N, I, O}, dtype);
      body();
    }
  }

  const DType dtype = std::get<DType>(GetParam());
  const Sizes sizes = under_test(std::get<Sizes>(GetParam()));
  const int64_t N = sizes.N, I = sizes.I, O = sizes.O;
  const std::vector<float> x = values(N * I, "x"), weight = values(O * I, "weight"), bias = values(O, "bias"), dy = values(N * O, "dy");
  TestDevice device = TestDevice::under_test();
};

TEST_P(MatmulOps, ForwardIsAsExactAsPlainCode) {
  for_each_way([&] {
    const Tensor y = device.tensor({N, O}, dtype);
    device->matmul().linear_forward(y, tensor({N, I}, x), tensor({O, I}, weight), tensor({O}, bias), device.stream(),
                                    packed_for(PackedFor::Forward));
    const auto exact = reference::linear_forward(converted<double>(x), converted<double>(weight), converted<double>(bias), N, I, O);
    expect_as_exact_as_plain_code("y", device.values(y), reference::linear_forward(x, weight, bias, N, I, O), exact, dtype);
  });
}

TEST_P(MatmulOps, ForwardWithoutABiasOverwritesTheOutput) {
  for_each_way([&] {
    const Tensor y = tensor({N, O}, values(N * O, "old"));
    device->matmul().linear_forward(y, tensor({N, I}, x), tensor({O, I}, weight), {}, device.stream(), packed_for(PackedFor::Forward));
    const auto exact = reference::linear_forward(converted<double>(x), converted<double>(weight), {}, N, I, O);
    expect_as_exact_as_plain_code("y", device.values(y), reference::linear_forward(x, weight, {}, N, I, O), exact, dtype);
  });
}

TEST_P(MatmulOps, BackwardInputIsAsExactAsPlainCode) {
  for_each_way([&] {
    const Tensor dx = tensor({N, I}, values(N * I, "old"));
    device->matmul().linear_backward_input(dx, tensor({N, O}, dy), tensor({O, I}, weight), device.stream(),
                                           packed_for(PackedFor::BackwardInput));
    const auto exact = reference::linear_backward_input(converted<double>(dy), converted<double>(weight), N, I, O);
    expect_as_exact_as_plain_code("dx", device.values(dx), reference::linear_backward_input(dy, weight, N, I, O), exact, dtype);
  });
}

TEST_P(MatmulOps, BackwardWeightAddsToWhatIsThereOrOverwritesItAsExactlyAsPlainCode) {
  for_each_way([&] {
    for (const GradientCase& c : gradient_cases) {
      SCOPED_TRACE(text_of(c));
      const auto start_weight = rounded_to(c.dtype, random_values(O * I, "old weight")),
                 start_bias = rounded_to(c.dtype, random_values(O, "old bias"));
      const Tensor dweight = device.tensor({O, I}, old_gradient(c, start_weight), c.dtype),
                   dbias = device.tensor({O}, old_gradient(c, start_bias), c.dtype);
      device->matmul().linear_backward_weight(dweight, dbias, tensor({N, O}, dy), tensor({N, I}, x), c.write, {}, device.stream());
      auto plain_weight = added_to(c, start_weight), plain_bias = added_to(c, start_bias);
      auto exact_weight = converted<double>(plain_weight), exact_bias = converted<double>(plain_bias);
      reference::linear_backward_weight(exact_weight, exact_bias, converted<double>(dy), converted<double>(x), N, I, O);
      reference::linear_backward_weight(plain_weight, plain_bias, dy, x, N, I, O);
      expect_as_exact_as_plain_code("dweight", device.values(dweight), plain_weight, exact_weight, c.dtype);
      expect_as_exact_as_plain_code("dbias", device.values(dbias), plain_bias, exact_bias, c.dtype);
    }
  });
}

TEST_P(MatmulOps, ColumnRangesOfWiderMatricesGiveTheSameAndTouchNothingElse) {
  for_each_way([&] {
    const auto column = [&](int64_t rows, int64_t width, const std::vector<float>& of) {
      return device.columns(device.tensor({rows, width + 7}, dtype), 3, 3 + width, of);
    };
    const double bound = std::max(1e-5, epsilon_of(dtype));
    const Tensor wide = device.tensor({N, O + 5}, dtype), y = wide.column_range(2, 2 + O), dense = device.tensor({N, O}, dtype);
    const Tensor w = tensor({O, I}, weight), b = tensor({O}, bias), panels = packed_for(PackedFor::Forward);
    device->matmul().linear_forward(y, column(N, I, x), w, b, device.stream(), panels);
    device->matmul().linear_forward(dense, tensor({N, I}, x), w, b, device.stream(), panels);
    EXPECT_LE(max_error(device.values(y), converted<double>(device.values(dense))), bound);
    EXPECT_EQ(device.values(wide.column_range(0, 2)), std::vector<float>(2 * N));
    EXPECT_EQ(device.values(wide.column_range(2 + O, 5 + O)), std::vector<float>(3 * N));

    const Tensor sum = device.tensor({O}), dense_sum = device.tensor({O}), dweight = device.tensor({O, I}),
                 dense_dweight = device.tensor({O, I});
    device->matmul().linear_backward_weight(dweight, sum, column(N, O, dy), column(N, I, x), GradientWrite::Add, {}, device.stream());
    device->matmul().linear_backward_weight(dense_dweight, dense_sum, tensor({N, O}, dy), tensor({N, I}, x), GradientWrite::Add, {},
                                            device.stream());
    EXPECT_LE(max_error(device.values(dweight), converted<double>(device.values(dense_dweight))), 1e-5);
    EXPECT_EQ(device.values(sum), device.values(dense_sum));
  });
}

INSTANTIATE_TEST_SUITE_P(OneElementOddSizesARealWidth, MatmulOps,
                         testing::Combine(testing::Values(Sizes{1, 1, 1}, Sizes{3, 5, 7}, Sizes{130, 33, 67}, Sizes{257, 96, 1},
                                                          Sizes{64, 768, 256}),
                                          testing::ValuesIn(compute_types)));

/// Sums of small integers are exact in any order, so that nothing is left to the library: every bit is known.
std::vector<float> small_integers(int64_t count, const char* name) {
  std::vector<float> values = random_values(count, name, 3);
  for (float& value : values) value = std::round(value);
  return values;
}

/// What storage in bf16 makes of sums, element e rounded by half word first + e.
std::vector<float> stochastically(const std::vector<float>& sums, const RandomStream& rounding, uint64_t first) {
  std::vector<float> values;
  for (size_t e = 0; e < sums.size(); e++) values.push_back(rounded_stochastically(sums[e], rounding.half_word(first + e)));
  return values;
}

TEST(MatmulGradients, InBf16AreRoundedOnceByTheHalfWordOfTheirElement) {
  const int64_t N = 203, I = emulated_or(9, 77), O = emulated_or(300, 1200);
  const RandomStream rounding(7, RandomPurpose::Rounding, "weight", 3);
  const auto x = small_integers(N * I, "x"), dy = small_integers(N * O, "dy"), old_weight = small_integers(O * I, "old weight");
  const std::vector<float> old_bias(O, 1000);  // bf16 holds 1000, and then every fourth integer
  for (const GradientWrite write : gradient_writes) {
    const GradientCase c{DType::bf16, write};
    auto weight_sums = added_to(c, old_weight), bias_sums = added_to(c, old_bias);
    reference::linear_backward_weight(weight_sums, bias_sums, dy, x, N, I, O);
    for (const DType dtype : compute_types) {
      TestDevice device = TestDevice::under_test();
      const Tensor dweight = device.tensor({O, I}, old_gradient(c, old_weight), DType::bf16),
                   dbias = device.tensor({O}, old_gradient(c, old_bias), DType::bf16);
      device->matmul().linear_backward_weight(dweight, dbias, device.tensor({N, O}, dy, dtype), device.tensor({N, I}, x, dtype), write,
                                              rounding, device.stream());
      EXPECT_EQ(device.values(dweight), stochastically(weight_sums, rounding, 0)) << name_of(dtype) << ", " << text_of(c);
      EXPECT_EQ(device.values(dbias), stochastically(bias_sums, rounding, O * I)) << name_of(dtype) << ", " << text_of(c);
    }
  }
}

// With one thread the workspace holds 6 Mi sums and panels of 1 Mi elements: a gradient, a factor or a result is larger in turn.
TEST(MatmulWorkspace, ProductsLargerThanItAreWhole) {
  const RandomStream rounding(7, RandomPurpose::Rounding, "weight", 3);
  for (const auto& [N, I, O] : {Sizes{4, 8000, 900}, Sizes{1200, 2000, 4}, Sizes{3, 12, 360000}, Sizes{2600, 16, 2600}}) {
    const auto x = small_integers(N * I, "x"), weight = small_integers(O * I, "weight"), bias = small_integers(O, "bias"),
               dy = small_integers(N * O, "dy");
    std::vector<float> dweight_sums(O * I, 1000), first_sums(O * I), none;
    reference::linear_backward_weight(dweight_sums, none, dy, x, N, I, O);
    reference::linear_backward_weight(first_sums, none, dy, x, N, I, O);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      TestDevice device = TestDevice::under_test(1);
      const Tensor tx = device.tensor({N, I}, x, dtype), tw = device.tensor({O, I}, weight, dtype), tdy = device.tensor({N, O}, dy, dtype),
                   y = device.tensor({N, O}, dtype), dx = device.tensor({N, I}, dtype);
      for (const std::string& way : ways_to_multiply(device, dtype)) {
        SCOPED_TRACE(way);
        choose(device, way, {N, I, O}, dtype);
        const std::vector<float> old(O * I, 1000);
        const Tensor dweight = device.tensor({O, I}, old), rounded_dweight = device.tensor({O, I}, old, DType::bf16),
                     first_dweight = device.tensor({O, I}, old);
        device->matmul().linear_forward(y, tx, tw, device.tensor({O}, bias, dtype), device.stream(),
                                        packed(device, tw, PackedFor::Forward));
        device->matmul().linear_backward_input(dx, tdy, tw, device.stream(), packed(device, tw, PackedFor::BackwardInput));
        device->matmul().linear_backward_weight(dweight, {}, tdy, tx, GradientWrite::Add, {}, device.stream());
        device->matmul().linear_backward_weight(rounded_dweight, {}, tdy, tx, GradientWrite::Add, rounding, device.stream());
        device->matmul().linear_backward_weight(first_dweight, {}, tdy, tx, GradientWrite::Overwrite, {}, device.stream());
        EXPECT_EQ(device.values(y), rounded_to(dtype, reference::linear_forward(x, weight, bias, N, I, O))) << name_of(dtype);
        EXPECT_EQ(device.values(dx), rounded_to(dtype, reference::linear_backward_input(dy, weight, N, I, O))) << name_of(dtype);
        EXPECT_EQ(device.values(dweight), dweight_sums) << name_of(dtype);
        EXPECT_EQ(device.values(first_dweight), first_sums) << name_of(dtype);
        EXPECT_EQ(device.values(rounded_dweight), stochastically(dweight_sums, rounding, 0)) << name_of(dtype);
      }
    }
  }
}

// The library's primitives are kept: one made for a product must not serve another, nor other operands.
TEST(MatmulPrimitives, ProductsOfTheSameSizesDoNotMeet) {
  const int64_t n = 48;
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (int repetition = 0; repetition < 2; repetition++) {
      choose(device, ways_to_multiply(device, dtype).back(), {n, n, n}, dtype);
      const auto values = [&](const char* name) { return small_integers(n * n, (name + std::to_string(repetition)).c_str()); };
      const auto a = values("a"), b = values("b");
      const std::vector<float> bias(n, 100);
      const Tensor ta = device.tensor({n, n}, a, dtype), tb = device.tensor({n, n}, b, dtype), tbias = device.tensor({n}, bias, dtype);
      const Tensor plain = device.tensor({n, n}, dtype), biased = device.tensor({n, n}, dtype), input = device.tensor({n, n}, dtype),
                   weight = device.tensor({n, n}), first_weight = device.tensor({n, n}), wide = device.tensor({n, 2 * n}, dtype),
                   part = wide.column_range(n, 2 * n);
      device->matmul().linear_forward(plain, ta, tb, {}, device.stream());
      device->matmul().linear_forward(biased, ta, tb, tbias, device.stream());
      device->matmul().linear_forward(part, ta, tb, {}, device.stream());
      device->matmul().linear_backward_input(input, ta, tb, device.stream());
      device->matmul().linear_backward_weight(weight, {}, ta, tb, GradientWrite::Add, {}, device.stream());
      device->matmul().linear_backward_weight(first_weight, {}, ta, tb, GradientWrite::Overwrite, {}, device.stream());
      std::vector<float> weight_sums(n * n), none;
      reference::linear_backward_weight(weight_sums, none, a, b, n, n, n);
      EXPECT_EQ(device.values(plain), rounded_to(dtype, reference::linear_forward(a, b, none, n, n, n))) << name_of(dtype);
      EXPECT_EQ(device.values(part), device.values(plain)) << name_of(dtype);
      EXPECT_EQ(device.values(biased), rounded_to(dtype, reference::linear_forward(a, b, bias, n, n, n))) << name_of(dtype);
      EXPECT_EQ(device.values(input), rounded_to(dtype, reference::linear_backward_input(a, b, n, n, n))) << name_of(dtype);
      EXPECT_EQ(device.values(weight), weight_sums) << name_of(dtype);
      EXPECT_EQ(device.values(first_weight), weight_sums) << name_of(dtype);
    }
  }
}

// Element (k, j) of a factor stands in panel j / 32, there at row k / 2, column j % 32, half k % 2.
TEST(PackedWeights, StandInPanelsFilledUpWithZeros) {
  if (!can_be_packed(DType::bf16)) GTEST_SKIP() << "only processors with AVX-512 read them";
  for (const auto& [O, I] : {std::pair<int64_t, int64_t>{1, 1}, {33, 70}, {64, 96}, {300, 31}, {5, 600}}) {
    for (const int threads : {1, 3}) {
      TestDevice device = TestDevice::under_test(threads);
      const auto weight = rounded_to(DType::bf16, random_values(O * I, "weight"));
      for (const PackedFor use : {PackedFor::Forward, PackedFor::BackwardInput}) {
        const bool forward = use == PackedFor::Forward;
        const int64_t depth = forward ? I : O, columns = forward ? O : I;
        const Tensor panels =
            device.tensor({packed_elements(depth, columns)}, std::vector<float>(packed_elements(depth, columns), 7), DType::bf16);
        device->matmul().pack_weight(panels, device.tensor({O, I}, weight, DType::bf16), use, device.stream());
        std::vector<float> expected(packed_elements(depth, columns));
        for (int64_t k = 0; k < depth; k++) {
          for (int64_t j = 0; j < columns; j++) {
            const int64_t panel = j / 32 * packed_extent(depth) * 32;
            expected[panel + k / 2 * 64 + j % 32 * 2 + k % 2] = forward ? weight[j * I + k] : weight[k * I + j];
          }
        }
        EXPECT_EQ(device.values(panels), expected) << O << " x " << I << (forward ? " forward" : " input gradient");
      }
    }
  }
}

TEST(PackedWeights, OurOwnKernelsGiveTheSameBitsFromThem) {
  if (!can_be_packed(DType::bf16)) GTEST_SKIP() << "only processors with AVX-512 read them";
  const int64_t N = 70, I = 3200, O = 130;
  TestDevice device = TestDevice::under_test(2);
  const Tensor x = device.tensor({N, I}, random_values(N * I, "x"), DType::bf16), y = device.tensor({N, O}, DType::bf16),
               weight = device.tensor({O, I}, random_values(O * I, "w"), DType::bf16), panels = packed(device, weight, PackedFor::Forward);
  for (const std::string own : {"avx512-bf16", "amx"}) {
    const auto known = device->matmul().candidates(OpKind::LinearForward, {{N, I, O, 0, 1}, DType::bf16});
    if (std::ranges::find(known, own) == known.end()) continue;
    EXPECT_NE(std::ranges::find(known, "packed " + own), known.end());
    choose(device, "packed " + own, {N, I, O}, DType::bf16);
    device->matmul().linear_forward(y, x, weight, {}, device.stream(), panels);
    const auto from_panels = device.values(y);
    choose(device, own, {N, I, O}, DType::bf16);
    device->matmul().linear_forward(y, x, weight, {}, device.stream());
    EXPECT_EQ(device.values(y), from_panels) << own;
  }
}

TEST(LinearReference, GradientsAreTheCentralDifferences) {
  const int64_t N = 3, I = 4, O = 5;
  auto x = converted<double>(random_values(N * I, "x")), weight = converted<double>(random_values(O * I, "w")),
       bias = converted<double>(random_values(O, "b"));
  const auto dy = converted<double>(random_values(N * O, "dy"));
  const auto loss = [&] { return dot(reference::linear_forward(x, weight, bias, N, I, O), dy); };
  std::vector<double> dweight(O * I), dbias(O);
  reference::linear_backward_weight(dweight, dbias, dy, x, N, I, O);
  EXPECT_LE(max_error(reference::linear_backward_input(dy, weight, N, I, O), central_differences(x, loss)), 1e-8);
  EXPECT_LE(max_error(dweight, central_differences(weight, loss)), 1e-8);
  EXPECT_LE(max_error(dbias, central_differences(bias, loss)), 1e-8);
}

TEST(MatmulDeterminism, TwoRunsGiveTheSameBits) {
  const int64_t N = 130, I = emulated_or(24, 96), O = emulated_or(40, 200);
  for (const DType dtype : compute_types) {
    std::vector<float> first[4];
    for (int run = 0; run < 2; run++) {
      TestDevice device = TestDevice::under_test();
      const Tensor x = device.tensor({N, I}, random_values(N * I, "x"), dtype), w = device.tensor({O, I}, random_values(O * I, "w"), dtype),
                   b = device.tensor({O}, random_values(O, "b"), dtype), y = device.tensor({N, O}, dtype),
                   dx = device.tensor({N, I}, dtype), dweight = device.tensor({O, I}), dbias = device.tensor({O});
      device->matmul().linear_forward(y, x, w, b, device.stream());
      device->matmul().linear_backward_input(dx, y, w, device.stream());
      device->matmul().linear_backward_weight(dweight, dbias, y, x, GradientWrite::Add, {}, device.stream());
      int i = 0;
      for (const Tensor& result : {y, dx, dweight, dbias}) {
        if (run == 0) first[i] = device.values(result);
        EXPECT_EQ(device.values(result), first[i]) << i << ' ' << name_of(dtype);
        i++;
      }
    }
  }
}

TEST(MatmulBiasGradient, DoesNotDependOnTheNumberOfThreads) {
  const int64_t N = 300, O = emulated_or(300, 2200);
  for (const DType dtype : compute_types) {
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      TestDevice device = TestDevice::under_test(threads);
      const Tensor dbias = device.tensor({O});
      device->matmul().linear_backward_weight(device.tensor({O, 1}), dbias, device.tensor({N, O}, random_values(N * O, "dy"), dtype),
                                              device.tensor({N, 1}, dtype), GradientWrite::Add, {}, device.stream());
      if (threads == 1) first = device.values(dbias);
      EXPECT_EQ(device.values(dbias), first) << name_of(dtype);
    }
  }
}

TEST(MatmulChecks, AWrongShapeIsAnInternalErrorThatNamesIt) {
  TestDevice device = TestDevice::null();
  const Tensor x = device.tensor({4, 8}), weight = device.tensor({16, 8}), y = device.tensor({4, 16});
  const auto forward = [&](Tensor y_, Tensor bias) { device->matmul().linear_forward(y_, x, weight, bias, device.stream()); };
  EXPECT_NO_THROW(forward(y, device.tensor({16})));
  EXPECT_THROW(forward(y, device.tensor({15})), InternalError);
  EXPECT_THROW(forward(device.tensor({4, 16}, DType::f64), {}), InternalError);
  try {
    forward(device.tensor({4, 15}), {});
    FAIL() << "y [4, 15] was accepted";
  } catch (const InternalError& error) {
    EXPECT_EQ(error.text().what, "linear_forward: y is [4, 15] fp32, expected [4, 16] fp32");
  }
  EXPECT_THROW(device->matmul().linear_backward_input(x, device.tensor({5, 16}), weight, device.stream()), InternalError);
  EXPECT_THROW(device->matmul().linear_forward(y, x, weight, {}, device.stream(), device.tensor({16 * 8}, DType::bf16)), InternalError);
  EXPECT_THROW(device->matmul().pack_weight(device.tensor({32 * 32}, DType::bf16), weight, PackedFor::Forward, device.stream()),
               InternalError)
      << "fp32 is never packed";
  EXPECT_THROW(device->matmul().linear_backward_weight(device.tensor({8, 16}), {}, y, x, GradientWrite::Add, {}, device.stream()),
               InternalError);
}

TEST(MatmulChecks, TypesThatDoNotBelongTogetherAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const auto forward = [&](DType y, DType x, DType weight) {
    device->matmul().linear_forward(device.tensor({4, 16}, y), device.tensor({4, 8}, x), device.tensor({16, 8}, weight), {},
                                    device.stream());
  };
  EXPECT_NO_THROW(forward(DType::bf16, DType::bf16, DType::bf16));
  EXPECT_THROW(forward(DType::f32, DType::bf16, DType::bf16), InternalError);
  EXPECT_THROW(forward(DType::bf16, DType::bf16, DType::f16), InternalError);
  EXPECT_THROW(forward(DType::f64, DType::f64, DType::f64), InternalError);
  const auto backward_weight = [&](DType dweight, DType dbias, DType x) {
    device->matmul().linear_backward_weight(device.tensor({16, 8}, dweight), device.tensor({16}, dbias), device.tensor({4, 16}, x),
                                            device.tensor({4, 8}, x), GradientWrite::Add, {}, device.stream());
  };
  EXPECT_NO_THROW(backward_weight(DType::f32, DType::f32, DType::f16));
  EXPECT_NO_THROW(backward_weight(DType::bf16, DType::bf16, DType::f32));
  EXPECT_THROW(backward_weight(DType::f16, DType::f16, DType::f16), InternalError);
  EXPECT_THROW(backward_weight(DType::f32, DType::bf16, DType::bf16), InternalError);
}

TEST(MatmulTrace, NullRecordsWhatCpuRecords) {
  for (const DType dtype : compute_types) {
    expect_same_trace_on_null(4, [&](TestDevice& device) {
      const Tensor x = device.tensor({4, 8}, dtype), weight = device.tensor({16, 8}, dtype), y = device.tensor({4, 16}, dtype),
                   bias = device.tensor({16}, dtype);
      device->matmul().linear_forward(y, x, weight, bias, device.stream());
      device->matmul().linear_backward_input(x, y, weight, device.stream());
      for (const GradientWrite write : gradient_writes)
        device->matmul().linear_backward_weight(device.tensor({16, 8}), device.tensor({16}), y, x, write, {}, device.stream());
    });
  }
}

TEST(MatmulTrace, PricesAMultiplyAddAsTwoAndEachOperandOnce) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    device->matmul().linear_forward(device.tensor({4, 16}, dtype), device.tensor({4, 8}, dtype), device.tensor({16, 8}, dtype),
                                    device.tensor({16}, dtype), device.stream());
    EXPECT_EQ(trace.back().info.flops, 2 * 4 * 8 * 16);
    EXPECT_EQ(trace.back().info.read_bytes, bytes_of(dtype) * (4 * 8 + 16 * 8 + 16));
    EXPECT_EQ(trace.back().info.write_bytes, bytes_of(dtype) * 4 * 16);
    for (const GradientWrite write : gradient_writes) {
      device->matmul().linear_backward_weight(device.tensor({16, 8}), device.tensor({16}), device.tensor({4, 16}, dtype),
                                              device.tensor({4, 8}, dtype), write, {}, device.stream());
      const int64_t sums = 4 * (16 * 8 + 16), read = write == GradientWrite::Add ? sums : 0;
      EXPECT_EQ(trace.back().info.read_bytes, bytes_of(dtype) * (4 * 8 + 4 * 16) + read);
      EXPECT_EQ(trace.back().info.write_bytes, sums);
    }
  }
}

}  // namespace
TEST(MatmulOps, AMissingTensorIsAnInternalError) {
  TestDevice device = TestDevice::under_test();
  const Tensor y = device.tensor({2, 4}), x = device.tensor({2, 8}), weight = device.tensor({4, 8});
  EXPECT_THROW(device->matmul().linear_forward({}, x, weight, {}, device.stream()), InternalError);
  EXPECT_THROW(device->matmul().linear_forward(y, {}, weight, {}, device.stream()), InternalError);
  EXPECT_THROW(device->matmul().linear_forward(y, x, {}, {}, device.stream()), InternalError);
}

}  // namespace tessera::op_test
