#include "kernels/matmul_ops.h"

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference.h"

namespace tessera::op_test {
namespace {

struct Sizes {
  int64_t N, I, O;
};

class MatmulOps : public testing::TestWithParam<Sizes> {
 protected:
  const int64_t N = GetParam().N, I = GetParam().I, O = GetParam().O;
  const std::vector<float> x = random_values(N * I, "x"), weight = random_values(O * I, "weight"), bias = random_values(O, "bias"),
                           dy = random_values(N * O, "dy");
  TestDevice device = TestDevice::cpu();
};

TEST_P(MatmulOps, ForwardIsAsExactAsPlainCode) {
  const Tensor y = device.tensor({N, O});
  device->matmul().linear_forward(y, device.tensor({N, I}, x), device.tensor({O, I}, weight), device.tensor({O}, bias), device.stream());
  const auto exact = reference::linear_forward(converted<double>(x), converted<double>(weight), converted<double>(bias), N, I, O);
  expect_as_exact_as_plain_code("y", device.values(y), reference::linear_forward(x, weight, bias, N, I, O), exact);
}

TEST_P(MatmulOps, ForwardWithoutABiasOverwritesTheOutput) {
  const Tensor y = device.tensor({N, O}, random_values(N * O, "old"));
  device->matmul().linear_forward(y, device.tensor({N, I}, x), device.tensor({O, I}, weight), {}, device.stream());
  const auto exact = reference::linear_forward(converted<double>(x), converted<double>(weight), {}, N, I, O);
  expect_as_exact_as_plain_code("y", device.values(y), reference::linear_forward(x, weight, {}, N, I, O), exact);
}

TEST_P(MatmulOps, BackwardInputIsAsExactAsPlainCode) {
  const Tensor dx = device.tensor({N, I}, random_values(N * I, "old"));
  device->matmul().linear_backward_input(dx, device.tensor({N, O}, dy), device.tensor({O, I}, weight), device.stream());
  const auto exact = reference::linear_backward_input(converted<double>(dy), converted<double>(weight), N, I, O);
  expect_as_exact_as_plain_code("dx", device.values(dx), reference::linear_backward_input(dy, weight, N, I, O), exact);
}

TEST_P(MatmulOps, BackwardWeightAddsToWhatIsThereAsExactlyAsPlainCode) {
  const auto old_weight = random_values(O * I, "old weight"), old_bias = random_values(O, "old bias");
  const Tensor dweight = device.tensor({O, I}, old_weight), dbias = device.tensor({O}, old_bias);
  device->matmul().linear_backward_weight(dweight, dbias, device.tensor({N, O}, dy), device.tensor({N, I}, x), device.stream());
  auto exact_weight = converted<double>(old_weight), exact_bias = converted<double>(old_bias);
  auto plain_weight = old_weight, plain_bias = old_bias;
  reference::linear_backward_weight(exact_weight, exact_bias, converted<double>(dy), converted<double>(x), N, I, O);
  reference::linear_backward_weight(plain_weight, plain_bias, dy, x, N, I, O);
  expect_as_exact_as_plain_code("dweight", device.values(dweight), plain_weight, exact_weight);
  expect_as_exact_as_plain_code("dbias", device.values(dbias), plain_bias, exact_bias);
}

TEST_P(MatmulOps, ColumnRangesOfWiderMatricesGiveTheSameAndTouchNothingElse) {
  const auto column = [&](int64_t rows, int64_t width, const std::vector<float>& values) {
    return device.columns(device.tensor({rows, width + 7}), 3, 3 + width, values);
  };
  const Tensor wide = device.tensor({N, O + 5}), y = wide.column_range(2, 2 + O), dense = device.tensor({N, O});
  const Tensor w = device.tensor({O, I}, weight), b = device.tensor({O}, bias);
  device->matmul().linear_forward(y, column(N, I, x), w, b, device.stream());
  device->matmul().linear_forward(dense, device.tensor({N, I}, x), w, b, device.stream());
  EXPECT_LE(max_error(device.values(y), converted<double>(device.values(dense))), 1e-5);
  EXPECT_EQ(device.values(wide.column_range(0, 2)), std::vector<float>(2 * N));
  EXPECT_EQ(device.values(wide.column_range(2 + O, 5 + O)), std::vector<float>(3 * N));

  const Tensor sum = device.tensor({O}), dense_sum = device.tensor({O}), dweight = device.tensor({O, I});
  device->matmul().linear_backward_weight(dweight, sum, column(N, O, dy), column(N, I, x), device.stream());
  device->matmul().linear_backward_weight(dweight, dense_sum, device.tensor({N, O}, dy), device.tensor({N, I}, x), device.stream());
  EXPECT_EQ(device.values(sum), device.values(dense_sum));
}

INSTANTIATE_TEST_SUITE_P(OneElementOddSizesARealWidth, MatmulOps,
                         testing::Values(Sizes{1, 1, 1}, Sizes{3, 5, 7}, Sizes{130, 33, 67}, Sizes{257, 96, 1}, Sizes{64, 768, 256}));

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
  const int64_t N = 130, I = 96, O = 200;
  std::vector<float> first[4];
  for (int run = 0; run < 2; run++) {
    TestDevice device = TestDevice::cpu();
    const Tensor x = device.tensor({N, I}, random_values(N * I, "x")), w = device.tensor({O, I}, random_values(O * I, "w")),
                 b = device.tensor({O}, random_values(O, "b")), y = device.tensor({N, O}), dx = device.tensor({N, I}),
                 dweight = device.tensor({O, I}), dbias = device.tensor({O});
    device->matmul().linear_forward(y, x, w, b, device.stream());
    device->matmul().linear_backward_input(dx, y, w, device.stream());
    device->matmul().linear_backward_weight(dweight, dbias, y, x, device.stream());
    int i = 0;
    for (const Tensor& result : {y, dx, dweight, dbias}) {
      if (run == 0) first[i] = device.values(result);
      EXPECT_EQ(device.values(result), first[i]) << i;
      i++;
    }
  }
}

TEST(MatmulBiasGradient, DoesNotDependOnTheNumberOfThreads) {
  const int64_t N = 300, O = 200;
  std::vector<float> results[2];
  for (int threads = 1; threads <= 2; threads++) {
    TestDevice device = TestDevice::cpu(threads);
    const Tensor dbias = device.tensor({O});
    device->matmul().linear_backward_weight(device.tensor({O, 1}), dbias, device.tensor({N, O}, random_values(N * O, "dy")),
                                            device.tensor({N, 1}), device.stream());
    results[threads - 1] = device.values(dbias);
  }
  EXPECT_EQ(results[0], results[1]);
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
  EXPECT_THROW(device->matmul().linear_backward_weight(device.tensor({8, 16}), {}, y, x, device.stream()), InternalError);
}

TEST(MatmulTrace, NullRecordsWhatCpuRecords) {
  expect_same_trace_on_null(3, [](TestDevice& device) {
    const Tensor x = device.tensor({4, 8}), weight = device.tensor({16, 8}), y = device.tensor({4, 16}), bias = device.tensor({16});
    device->matmul().linear_forward(y, x, weight, bias, device.stream());
    device->matmul().linear_backward_input(x, y, weight, device.stream());
    device->matmul().linear_backward_weight(weight, bias, y, x, device.stream());
  });
}

TEST(MatmulTrace, PricesAMultiplyAddAsTwoAndEachOperandOnce) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  device->matmul().linear_forward(device.tensor({4, 16}), device.tensor({4, 8}), device.tensor({16, 8}), device.tensor({16}),
                                  device.stream());
  ASSERT_EQ(trace.size(), 1u);
  EXPECT_EQ(trace[0].info.flops, 2 * 4 * 8 * 16);
  EXPECT_EQ(trace[0].info.read_bytes, 4 * (4 * 8 + 16 * 8 + 16));
  EXPECT_EQ(trace[0].info.write_bytes, 4 * 4 * 16);
}

}  // namespace
TEST(MatmulOps, AMissingTensorIsAnInternalError) {
  TestDevice device = TestDevice::cpu();
  const Tensor y = device.tensor({2, 4}), x = device.tensor({2, 8}), weight = device.tensor({4, 8});
  EXPECT_THROW(device->matmul().linear_forward({}, x, weight, {}, device.stream()), InternalError);
  EXPECT_THROW(device->matmul().linear_forward(y, {}, weight, {}, device.stream()), InternalError);
  EXPECT_THROW(device->matmul().linear_forward(y, x, {}, {}, device.stream()), InternalError);
}

}  // namespace tessera::op_test
