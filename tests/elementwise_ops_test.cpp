#include "kernels/elementwise_ops.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference_elementwise.h"

namespace tessera {
namespace {

using namespace op_test;

const std::vector<int64_t> lengths = {1, 15, 16, 1023, 100003};  // the last one wakes a team

/// Row numbers sorted stably by token.
std::vector<int32_t> sorted_by_token(const std::vector<int32_t>& tokens) {
  std::vector<int32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
  return order;
}

/// Tokens as text has them: few are frequent, most are rare.
std::vector<int32_t> random_tokens(int64_t count, int64_t V) {
  const RandomStream stream(7, RandomPurpose::Sample);
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; i++) {
    const double u = stream.uniform(i);
    tokens[i] = static_cast<int32_t>(u * u * u * static_cast<double>(V));
  }
  return tokens;
}

TEST(Elementwise, ZeroAndCopyTouchExactlyTheirTensor) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : lengths) {
    const std::vector<float> values = random_values(n + 2, "values");
    const Tensor from = device.tensor({n + 2}, values), to = device.tensor({n + 2}, std::vector<float>(n + 2, 7));
    device->elementwise().copy(to.flat_range(1, n + 1), from.flat_range(1, n + 1), device.stream());
    std::vector<float> expected = values;
    expected.front() = expected.back() = 7;
    EXPECT_EQ(device.values(to), expected) << n;
    device->elementwise().zero(to.flat_range(1, n + 1), device.stream());
    std::fill(expected.begin() + 1, expected.end() - 1, 0.0f);
    EXPECT_EQ(device.values(to), expected) << n;
  }
}

TEST(Elementwise, CopyTakesAnyDType) {
  TestDevice device = TestDevice::cpu();
  const Tensor from = device.tensor({5}, DType::u8), to = device.tensor({5}, DType::u8);
  const uint8_t bytes[5] = {1, 2, 3, 254, 255};
  device->write(from, bytes, 5);
  device->elementwise().copy(to, from, device.stream());
  EXPECT_EQ(std::memcmp(to.data, bytes, 5), 0);
}

TEST(Elementwise, AddIsOneRoundedAdditionAndMayWorkInPlace) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : lengths) {
    const std::vector<float> a = random_values(n, "a"), b = random_values(n, "b");
    std::vector<float> expected(n);
    for (int64_t i = 0; i < n; i++) expected[i] = a[i] + b[i];
    const Tensor a_tensor = device.tensor({n}, a), b_tensor = device.tensor({n}, b), out = device.tensor({n});
    device->elementwise().add(out, a_tensor, b_tensor, device.stream());
    EXPECT_EQ(device.values(out), expected) << n;
    device->elementwise().add(a_tensor, a_tensor, b_tensor, device.stream());
    EXPECT_EQ(device.values(a_tensor), expected) << n;
  }
}

TEST(Elementwise, OrderedSumAddsInRankOrder) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : lengths) {
    for (const int64_t R : {1, 2, 5}) {
      const std::vector<float> pieces = random_values(R * n, "pieces");
      std::vector<float> expected(pieces.begin(), pieces.begin() + n);
      for (int64_t r = 1; r < R; r++) {
        for (int64_t i = 0; i < n; i++) expected[i] += pieces[r * n + i];
      }
      const Tensor out = device.tensor({n});
      device->elementwise().ordered_sum(out, device.tensor({R, n}, pieces), device.stream());
      EXPECT_EQ(device.values(out), expected) << R << " pieces of " << n;
    }
  }
}

TEST(Gelu, ForwardAndBackwardAreAsExactAsPlainCode) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : lengths) {
    const std::vector<float> x = random_values(n, "x", 3), dy = random_values(n, "dy");
    std::vector<float> plain(n), plain_gradient(n);
    std::vector<double> exact(n), exact_gradient(n);
    for (int64_t i = 0; i < n; i++) {
      plain[i] = reference::gelu(x[i]), plain_gradient[i] = dy[i] * reference::gelu_derivative(x[i]);
      exact[i] = reference::gelu<double>(x[i]), exact_gradient[i] = dy[i] * reference::gelu_derivative<double>(x[i]);
    }
    const Tensor y = device.tensor({n}), dx = device.tensor({n}, dy), x_tensor = device.tensor({n}, x);
    device->elementwise().gelu_forward(y, x_tensor, device.stream());
    device->elementwise().gelu_backward(dx, dx, x_tensor, device.stream());
    expect_as_exact_as_plain_code("y", device.values(y), plain, exact);
    expect_as_exact_as_plain_code("dx", device.values(dx), plain_gradient, exact_gradient);
  }
}

TEST(Gelu, ThePlainDerivativeAgreesWithFiniteDifferences) {
  for (std::vector<double> x(1, -6.0); x[0] < 6; x[0] += 0.37) {
    const std::vector<double> slope = central_differences(x, [&] { return reference::gelu(x[0]); });
    EXPECT_NEAR(reference::gelu_derivative(x[0]), slope[0], 1e-8) << x[0];
  }
}

TEST(Gelu, ExtremesStayNumbersAndNanStaysNan) {
  TestDevice device = TestDevice::cpu();
  const std::vector<float> x = {-1e4f, -30, -10.5f, 0, 10.5f, 30, 1e4f, NAN};
  const Tensor x_tensor = device.tensor({8}, x), y = device.tensor({8}), dx = device.tensor({8}, std::vector<float>(8, 1));
  device->elementwise().gelu_forward(y, x_tensor, device.stream());
  device->elementwise().gelu_backward(dx, dx, x_tensor, device.stream());
  for (size_t i = 0; i < 7; i++) {
    EXPECT_NEAR(device.values(y)[i], std::max(x[i], 0.0f), 1e-20) << x[i];
    EXPECT_NEAR(device.values(dx)[i], x[i] > 0 ? 1 : x[i] < 0 ? 0 : 0.5, 1e-20) << x[i];
  }
  EXPECT_TRUE(std::isnan(device.values(y)[7]) && std::isnan(device.values(dx)[7]));
}

struct EmbeddingSize {
  int64_t sequences, T, H, V, P;
};
const std::vector<EmbeddingSize> embedding_sizes = {{1, 1, 1, 1, 1}, {3, 5, 7, 11, 6}, {4, 64, 768, 500, 128}};

TEST(Embedding, ForwardIsOneRoundedAddition) {
  TestDevice device = TestDevice::cpu();
  for (const auto [sequences, T, H, V, P] : embedding_sizes) {
    const int64_t N = sequences * T;
    const std::vector<int32_t> tokens = random_tokens(N, V);
    const std::vector<float> token_weight = random_values(V * H, "token"), position_weight = random_values(P * H, "position");
    const Tensor h = device.tensor({N, H});
    device->elementwise().embedding_forward(h, device.tensor({N}, tokens), device.tensor({V, H}, token_weight),
                                            device.tensor({P, H}, position_weight), T, device.stream());
    EXPECT_EQ(device.values(h), reference::embedding_forward(tokens, token_weight, position_weight, T, H)) << N;
  }
}

struct EmbeddingGradients {
  std::vector<float> dtoken, dposition;
};

/// The tables' gradients hold `before` at the start.
EmbeddingGradients embedding_backward(TestDevice& device, EmbeddingSize s, const std::vector<int32_t>& tokens, const std::vector<float>& dh,
                                      float before) {
  const int64_t N = s.sequences * s.T;
  const Tensor dtoken = device.tensor({s.V, s.H}, std::vector<float>(s.V * s.H, before));
  const Tensor dposition = device.tensor({s.P, s.H}, std::vector<float>(s.P * s.H, before)), dh_tensor = device.tensor({N, s.H}, dh);
  device->elementwise().token_embedding_backward(dtoken, dh_tensor, device.tensor({N}, tokens), device.tensor({N}, sorted_by_token(tokens)),
                                                 device.stream());
  device->elementwise().position_embedding_backward(dposition, dh_tensor, s.T, device.stream());
  return {device.values(dtoken), device.values(dposition)};
}

TEST(Embedding, BackwardIsAsExactAsPlainCodeAndAddsToWhatIsThere) {
  TestDevice device = TestDevice::cpu();
  for (const EmbeddingSize& s : embedding_sizes) {
    SCOPED_TRACE(testing::Message() << s.sequences << " x " << s.T << " x " << s.H);
    const std::vector<int32_t> tokens = random_tokens(s.sequences * s.T, s.V);
    const std::vector<float> dh = random_values(s.sequences * s.T * s.H, "dh");
    std::vector<float> dtoken(s.V * s.H, 0.5f), dposition(s.P * s.H, 0.5f);
    std::vector<double> exact_dtoken(s.V * s.H, 0.5), exact_dposition(s.P * s.H, 0.5);
    reference::embedding_backward(dtoken, dposition, dh, tokens, s.T, s.H);
    reference::embedding_backward(exact_dtoken, exact_dposition, converted<double>(dh), tokens, s.T, s.H);
    const EmbeddingGradients ours = embedding_backward(device, s, tokens, dh, 0.5f);
    expect_as_exact_as_plain_code("dtoken", ours.dtoken, dtoken, exact_dtoken);
    expect_as_exact_as_plain_code("dposition", ours.dposition, dposition, exact_dposition);
  }
}

TEST(Embedding, ThePlainBackwardAgreesWithFiniteDifferences) {
  const size_t T = 3, H = 2;
  const std::vector<int32_t> tokens = {4, 0, 4, 4, 1, 0};
  std::vector<double> token_weight = converted<double>(random_values(5 * H, "token"));
  std::vector<double> position_weight = converted<double>(random_values(4 * H, "position"));
  const std::vector<double> dh = converted<double>(random_values(6 * H, "dh"));
  const auto loss = [&] { return dot(reference::embedding_forward(tokens, token_weight, position_weight, T, H), dh); };
  std::vector<double> dtoken(5 * H), dposition(4 * H);
  reference::embedding_backward(dtoken, dposition, dh, tokens, T, H);
  EXPECT_LE(max_error(dtoken, central_differences(token_weight, loss)), 1e-8);
  EXPECT_LE(max_error(dposition, central_differences(position_weight, loss)), 1e-8);
}

TEST(Embedding, BackwardBitsDependNotOnThreadsEvenWhereOneTokenFillsTheBatch) {
  const EmbeddingSize s{8, 64, 100, 50, 64};
  const std::vector<float> dh = random_values(s.sequences * s.T * s.H, "dh");
  TestDevice one = TestDevice::cpu(1), three = TestDevice::cpu(3);
  std::vector<int32_t> tokens = random_tokens(s.sequences * s.T, s.V);
  for (const bool alone : {false, true}) {
    if (alone) std::fill(tokens.begin(), tokens.end(), 17);
    const EmbeddingGradients expected = embedding_backward(one, s, tokens, dh, 0.5f), ours = embedding_backward(three, s, tokens, dh, 0.5f);
    EXPECT_EQ(ours.dtoken, expected.dtoken);
    EXPECT_EQ(ours.dposition, expected.dposition);
  }
}

/// Every op once; the results of those with a number in it.
std::vector<float> every_op(TestDevice& device) {
  const int64_t N = 600, H = 131, V = 40, T = 300;
  const std::vector<int32_t> tokens = random_tokens(N, V);
  const Tensor a = device.tensor({N, H}, random_values(N * H, "a")), b = device.tensor({N, H}, random_values(N * H, "b"));
  const Tensor table = device.tensor({V, H}, random_values(V * H, "table")),
               positions = device.tensor({T, H}, random_values(T * H, "positions"));
  const Tensor token_tensor = device.tensor({N}, tokens), order = device.tensor({N}, sorted_by_token(tokens)),
               out = device.tensor({N * H / 2});
  ElementwiseOps& ops = device->elementwise();
  Stream& stream = device.stream();
  ops.zero(out, stream);
  ops.embedding_forward(a, token_tensor, table, positions, T, stream);
  ops.gelu_forward(b, a, stream);
  ops.gelu_backward(a, b, a, stream);
  ops.add(b, a, b, stream);
  ops.token_embedding_backward(table, b, token_tensor, order, stream);
  ops.position_embedding_backward(positions, b, T, stream);
  ops.ordered_sum(out, b.reshaped({2, N * H / 2}), stream);
  ops.copy(a, b, stream);
  std::vector<float> result;
  for (const Tensor& tensor : {a, table, positions, out}) {
    const std::vector<float> values = device.values(tensor);
    result.insert(result.end(), values.begin(), values.end());
  }
  return result;
}

TEST(Elementwise, BitsDependNeitherOnThreadsNorOnTheRun) {
  TestDevice one = TestDevice::cpu(1), two = TestDevice::cpu(2), three = TestDevice::cpu(3);
  const std::vector<float> expected = every_op(one);
  EXPECT_EQ(every_op(one), expected);
  EXPECT_EQ(every_op(two), expected);
  EXPECT_EQ(every_op(three), expected);
}

TEST(Elementwise, TheNullDeviceRecordsTheSameOps) {
  expect_same_trace_on_null(9, [](TestDevice& device) { every_op(device); });
}

TEST(Elementwise, AnEmptyTensorIsNoWork) {
  TestDevice device = TestDevice::cpu();
  const Tensor nothing(nullptr, DType::f32, {0});
  device->elementwise().zero(nothing, device.stream());
  device->elementwise().copy(nothing, nothing, device.stream());
  device->elementwise().ordered_sum(nothing, Tensor(nullptr, DType::f32, {2, 0}), device.stream());
}

TEST(Elementwise, WrongShapesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor x = device.tensor({4, 32}), other = device.tensor({4, 31}), tokens = device.tensor({4}, DType::i32),
               row = device.tensor({32});
  ElementwiseOps& ops = device->elementwise();
  Stream& stream = device.stream();
  EXPECT_THROW(ops.zero({}, stream), InternalError);
  EXPECT_THROW(ops.zero(x.column_range(0, 3), stream), InternalError);
  EXPECT_THROW(ops.copy(x, other, stream), InternalError);
  EXPECT_THROW(ops.copy(tokens, device.tensor({4}), stream), InternalError);
  EXPECT_THROW(ops.copy(x.row_range(0, 2), x.row_range(1, 3), stream), InternalError);
  EXPECT_THROW(ops.add(x, x, other, stream), InternalError);
  EXPECT_THROW(ops.gelu_forward(x, other, stream), InternalError);
  EXPECT_THROW(ops.gelu_backward(x, other, x, stream), InternalError);
  EXPECT_THROW(ops.ordered_sum(device.tensor({31}), x, stream), InternalError);
  EXPECT_THROW(ops.ordered_sum(x.row_range(1, 2).reshaped({32}), x, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, row, x, x, 4, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, other, x, 4, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, x, x, 3, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, x, x.row_range(0, 2), 4, stream), InternalError);
  EXPECT_THROW(ops.token_embedding_backward(x, other, tokens, tokens, stream), InternalError);
  EXPECT_THROW(ops.position_embedding_backward(x, x, 3, stream), InternalError);
}

}  // namespace
}  // namespace tessera
