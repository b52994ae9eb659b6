#include "kernels/elementwise_ops.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "tests/elementwise_checks.h"

namespace tessera {
namespace {

using namespace op_test;

const std::vector<int64_t> lengths = {1, 15, 16, 33, 1023, 100003};  // the last one wakes a team
const int64_t beyond_caches = 600001;                                // of fp32: each of two threads zeros more than 1 MiB

TEST(Elementwise, ZeroAndCopyTouchExactlyTheirTensor) {
  TestDevice device = TestDevice::under_test();
  std::vector<int64_t> all = lengths;
  all.push_back(beyond_caches);
  for (const int64_t n : all) {
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
  TestDevice device = TestDevice::under_test();
  const Tensor from = device.tensor({5}, DType::u8), to = device.tensor({5}, DType::u8);
  const uint8_t bytes[5] = {1, 2, 3, 254, 255};
  device->write(from, bytes, 5);
  device->elementwise().copy(to, from, device.stream());
  uint8_t copied[5] = {};
  device->read(copied, to, 5);
  EXPECT_EQ(std::memcmp(copied, bytes, 5), 0);
}

TEST(Elementwise, CastMultipliesInFp32AndRoundsOnceFromEachTypeToEach) {
  TestDevice device = TestDevice::under_test();
  for (const DType from : compute_types) {
    for (const DType to : compute_types) {
      for (const int64_t n : lengths) check_cast(device, n, from, to, 1);
      check_cast(device, 1000, from, to, 1 / 3.0f);
    }
  }
}

TEST(Elementwise, CastScalesInPlaceWithinAType) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    const Tensor x = device.tensor({100}, std::vector<float>(100, 3), dtype);
    device->elementwise().cast(x, x, 0.5f, device.stream());
    EXPECT_EQ(device.values(x), std::vector<float>(100, 1.5f));
  }
}

TEST(Elementwise, AddIsOneRoundedAdditionAndMayWorkInPlace) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (const int64_t n : lengths) check_add(device, n, dtype);
  }
}

TEST(Elementwise, OrderedSumAddsInRankOrderAndRoundsOnce) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t n : lengths) {
      for (const int64_t R : {1, 2, 5}) check_ordered_sum(device, R, n, dtype);
    }
  }
}

TEST(Gelu, ForwardAndBackwardAreAsExactAsPlainCodeInEveryType) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (const int64_t n : lengths) check_gelu(device, n, dtype);
  }
}

TEST(Gelu, ThePlainDerivativeAgreesWithFiniteDifferences) {
  for (std::vector<double> x(1, -6.0); x[0] < 6; x[0] += 0.37) {
    const std::vector<double> slope = central_differences(x, [&] { return reference::gelu(x[0]); });
    EXPECT_NEAR(reference::gelu_derivative(x[0]), slope[0], 1e-8) << x[0];
  }
}

TEST(Gelu, ExtremesStayNumbersAndNanStaysNan) {
  TestDevice device = TestDevice::under_test();
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

TEST(Swiglu, ForwardAndBackwardAreAsExactAsPlainCodeInEveryType) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (const auto& [N, F] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 33}, {2, 1023}, {70, 688}}) {
      check_swiglu(device, N, F, dtype);
    }
  }
}

TEST(Swiglu, ThePlainBackwardAgreesWithFiniteDifferences) {
  const size_t F = 7;
  std::vector<double> gate_up = converted<double>(random_values(3 * 2 * F, "gate_up", 3));
  const std::vector<double> dy = converted<double>(random_values(3 * F, "dy"));
  const auto loss = [&] { return dot(reference::swiglu_forward(gate_up, F), dy); };
  EXPECT_LE(max_error(reference::swiglu_backward(dy, gate_up, F), central_differences(gate_up, loss)), 1e-8);
}

TEST(Swiglu, ExtremesStayNumbersAndNanStaysNan) {
  TestDevice device = TestDevice::under_test();
  const std::vector<float> gate = {-1e4f, -100, 0, 100, 1e4f, NAN};
  std::vector<float> gate_up = gate;
  gate_up.resize(12, 1);
  const Tensor in = device.tensor({1, 12}, gate_up), y = device.tensor({1, 6}), din = device.tensor({1, 12});
  device->elementwise().swiglu_forward(y, in, device.stream());
  device->elementwise().swiglu_backward(din, device.tensor({1, 6}, std::vector<float>(6, 1)), in, device.stream());
  for (size_t i = 0; i < 5; i++) {
    EXPECT_NEAR(device.values(y)[i], std::max(gate[i], 0.0f), 1e-20) << gate[i];
    EXPECT_NEAR(device.values(din)[i], gate[i] > 0 ? 1 : gate[i] < 0 ? 0 : 0.5, 1e-20) << gate[i];
    EXPECT_NEAR(device.values(din)[6 + i], std::max(gate[i], 0.0f), 1e-20) << gate[i];
  }
  EXPECT_TRUE(std::isnan(device.values(y)[5]) && std::isnan(device.values(din)[5]) && std::isnan(device.values(din)[11]));
}

TEST(Rotary, TurnsTheHeadsOfAColumnRangeAsExactlyAsPlainCodeInEveryType) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    check_rotary(device, 1, 1, 1, 2, dtype);
    check_rotary(device, 2, 5, 3, 24, dtype);
    check_rotary(device, 2, 70, 5, 64, dtype);
    check_rotary(device, 1, 3, 2, 256, dtype);
  }
}

TEST(Rotary, TheProductOfAQueryAndAKeyDependsOnTheirDistanceAlone) {
  const int64_t T = 12, D = 8;
  const std::vector<double> q = converted<double>(random_values(D, "q")), k = converted<double>(random_values(D, "k")),
                            table = converted<double>(rotary_table(T, D));
  std::vector<double> queries, keys;
  for (int64_t t = 0; t < T; t++) queries.insert(queries.end(), q.begin(), q.end()), keys.insert(keys.end(), k.begin(), k.end());
  queries = reference::rotary(queries, D, table, T, D, Turn::Forward), keys = reference::rotary(keys, D, table, T, D, Turn::Forward);
  const auto product = [&](int64_t at, int64_t distance) {
    double sum = 0;
    for (int64_t d = 0; d < D; d++) sum += queries[(at + distance) * D + d] * keys[at * D + d];
    return sum;
  };
  for (int64_t at = 1; at + 3 < T; at++) EXPECT_NEAR(product(at, 3), product(0, 3), 1e-5);  // the table is fp32
  EXPECT_GT(std::abs(product(0, 3) - product(0, 4)), 1e-2);
}

TEST(Rotary, ThePlainBackwardAgreesWithFiniteDifferences) {
  const int64_t T = 3, D = 6, columns = 2 * D;
  std::vector<double> x = converted<double>(random_values(2 * T * columns, "x"));
  const std::vector<double> dy = converted<double>(random_values(2 * T * columns, "dy")), table = converted<double>(rotary_table(T, D));
  const auto loss = [&] { return dot(reference::rotary(x, columns, table, T, D, Turn::Forward), dy); };
  EXPECT_LE(max_error(reference::rotary(dy, columns, table, T, D, Turn::Backward), central_differences(x, loss)), 1e-8);
}

const std::vector<EmbeddingSize> embedding_sizes = {{1, 1, 1, 1, 1}, {3, 5, 7, 11, 6}, {4, 64, emulated_or(264, 768), 500, 128}};

TEST(Embedding, ForwardIsOneRoundedAdditionOrACopy) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (const EmbeddingSize& size : embedding_sizes) check_embedding_forward(device, size, dtype);
  }
}

TEST(Embedding, BackwardSumsInRowOrderAndRoundsEachElementByItsOwnHalfWord) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (const GradientCase& gradient : gradient_cases) {
      for (const EmbeddingSize& size : embedding_sizes) check_embedding_backward(device, size, dtype, gradient);
    }
  }
}

TEST(Embedding, BackwardIsAsExactAsPlainCodeInEveryType) {
  TestDevice device = TestDevice::under_test();
  const EmbeddingSize s{4, 64, emulated_or(264, 768), 500, 128};
  const std::vector<int32_t> tokens = random_tokens(s.sequences * s.T, s.V);
  for (const DType dtype : compute_types) {
    const std::vector<float> dh = rounded_to(dtype, random_values(s.sequences * s.T * s.H, "dh"));
    for (const GradientCase& gradient : gradient_cases) {
      const float added = gradient.write == GradientWrite::Add ? 0.5f : 0;
      std::vector<float> dtoken(s.V * s.H, added), dposition(s.P * s.H, added);
      std::vector<double> exact_dtoken(s.V * s.H, added), exact_dposition(s.P * s.H, added);
      reference::embedding_backward(dtoken, dposition, dh, tokens, s.T, s.H);
      reference::embedding_backward(exact_dtoken, exact_dposition, converted<double>(dh), tokens, s.T, s.H);
      const EmbeddingGradients ours = embedding_backward(device, s, tokens, dh, dtype, gradient, 0.5f);
      expect_as_exact_as_plain_code("dtoken", ours.dtoken, dtoken, exact_dtoken, gradient.dtype);
      expect_as_exact_as_plain_code("dposition", ours.dposition, dposition, exact_dposition, gradient.dtype);
    }
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
  TestDevice one = TestDevice::under_test(1), three = TestDevice::under_test(3);
  std::vector<int32_t> tokens = random_tokens(s.sequences * s.T, s.V);
  for (const bool alone : {false, true}) {
    if (alone) std::fill(tokens.begin(), tokens.end(), 17);
    for (const GradientCase& gradient : gradient_cases) {
      const EmbeddingGradients expected = embedding_backward(one, s, tokens, dh, DType::bf16, gradient, 0.5f),
                               ours = embedding_backward(three, s, tokens, dh, DType::bf16, gradient, 0.5f);
      EXPECT_EQ(ours.dtoken, expected.dtoken);
      EXPECT_EQ(ours.dposition, expected.dposition);
    }
  }
}

/// Every op once; the results of those with a number in it.
std::vector<float> every_op(TestDevice& device, DType dtype, GradientCase gradient) {
  const int64_t T = emulated_or(35, 300), N = 2 * T, H = 132, V = 40;
  const std::vector<int32_t> tokens = random_tokens(N, V);
  const auto random = [&](Shape shape, const char* name) { return device.tensor(shape, random_values(shape.elements(), name), dtype); };
  const Tensor a = random({N, H}, "a"), b = random({N, H}, "b"), table = random({V, H}, "table"), positions = random({T, H}, "positions"),
               half = random({N, H / 2}, "half"), token_tensor = device.tensor({N}, tokens),
               order = device.tensor({N}, sorted_by_token(tokens)), angles = device.tensor({T, 22}, rotary_table(T, 22)),
               dtable = device.tensor({V, H}, gradient.dtype), dpositions = device.tensor({T, H}, gradient.dtype),
               pieces = device.tensor({2, N * H / 2}, gradient.dtype), out = device.tensor({N * H / 2}, gradient.dtype);
  ElementwiseOps& ops = device->elementwise();
  Stream& stream = device.stream();
  ops.zero(out, stream);
  ops.embedding_forward(a, token_tensor, table, positions, T, stream);
  ops.gelu_forward(b, a, stream);
  ops.gelu_backward(a, b, a, stream);
  ops.rotary(a.column_range(0, 88), angles, Turn::Forward, stream);
  ops.swiglu_forward(half, a, stream);
  ops.swiglu_backward(a, half, a, stream);
  ops.add(b, a, b, stream);
  ops.token_embedding_backward(dtable, b, token_tensor, order, gradient.write, token_rounding(), stream);
  ops.position_embedding_backward(dpositions, b, T, gradient.write, position_rounding(), stream);
  ops.cast(pieces.reshaped({N, H}), b, 0.75f, stream);
  ops.ordered_sum(out, pieces, stream);
  ops.copy(a, b, stream);
  std::vector<float> result;
  for (const Tensor& tensor : {a, dtable, dpositions, out}) {
    const std::vector<float> values = device.values(tensor);
    result.insert(result.end(), values.begin(), values.end());
  }
  return result;
}

TEST(Elementwise, BitsDependNeitherOnThreadsNorOnTheRun) {
  TestDevice one = TestDevice::under_test(1), two = TestDevice::under_test(2), three = TestDevice::under_test(3);
  for (const DType dtype : compute_types) {
    for (const GradientCase& gradient : gradient_cases) {
      const std::vector<float> expected = every_op(one, dtype, gradient);
      EXPECT_EQ(every_op(one, dtype, gradient), expected);
      EXPECT_EQ(every_op(two, dtype, gradient), expected);
      EXPECT_EQ(every_op(three, dtype, gradient), expected);
    }
  }
}

TEST(Elementwise, TheNullDeviceRecordsTheSameOps) {
  for (const DType dtype : compute_types) {
    for (const GradientCase& gradient : gradient_cases)
      expect_same_trace_on_null(13, [&](TestDevice& device) { every_op(device, dtype, gradient); });
  }
}

TEST(Embedding, ABackwardThatOverwritesWritesAllOfItsTableAndReadsNoneOfIt) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  const Tensor table = device.tensor({40, 8}), dh = device.tensor({6, 8}), rows = device.tensor({6}, DType::i32);
  for (const GradientWrite write : gradient_writes) {
    device->elementwise().token_embedding_backward(table, dh, rows, rows, write, {}, device.stream());
    device->elementwise().position_embedding_backward(table, dh, 3, write, {}, device.stream());
  }
  ASSERT_EQ(trace.size(), 4u);
  EXPECT_EQ(trace[0].info.read_bytes, 6 * 8 * 4 + 2 * 6 * 4);
  EXPECT_EQ(trace[0].info.write_bytes, 40 * 8 * 4);
  EXPECT_EQ(trace[1].info.read_bytes, 6 * 8 * 4);
  EXPECT_EQ(trace[1].info.write_bytes, 40 * 8 * 4);
  EXPECT_EQ(trace[2].info.read_bytes, 2 * 6 * 8 * 4 + 2 * 6 * 4) << "each token once";
  EXPECT_EQ(trace[2].info.write_bytes, 6 * 8 * 4);
  EXPECT_EQ(trace[3].info.read_bytes, 6 * 8 * 4 + 3 * 8 * 4);
  EXPECT_EQ(trace[3].info.write_bytes, 3 * 8 * 4);
}

TEST(Elementwise, ThePriceCountsTheBytesOfEachType) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  device->elementwise().cast(device.tensor({10}, DType::bf16), device.tensor({10}), 1, device.stream());
  device->elementwise().swiglu_forward(device.tensor({3, 5}, DType::f16), device.tensor({3, 10}, DType::f16), device.stream());
  ASSERT_EQ(trace.size(), 2u);
  EXPECT_EQ(trace[0].info.read_bytes, 40);
  EXPECT_EQ(trace[0].info.write_bytes, 20);
  EXPECT_EQ(trace[1].info.read_bytes, 60);
  EXPECT_EQ(trace[1].info.write_bytes, 30);
}

TEST(Elementwise, AnEmptyTensorIsNoWork) {
  TestDevice device = TestDevice::under_test();
  const Tensor nothing(nullptr, DType::f32, {0});
  device->elementwise().zero(nothing, device.stream());
  device->elementwise().copy(nothing, nothing, device.stream());
  device->elementwise().cast(nothing, nothing, 2, device.stream());
  device->elementwise().ordered_sum(nothing, Tensor(nullptr, DType::f32, {2, 0}), device.stream());
}

TEST(Elementwise, WrongShapesAndTypesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor x = device.tensor({4, 32}), other = device.tensor({4, 31}), tokens = device.tensor({4}, DType::i32),
               row = device.tensor({32}), half = device.tensor({4, 16}), bf16 = device.tensor({4, 32}, DType::bf16),
               f16 = device.tensor({4, 32}, DType::f16), table = device.tensor({4, 16});
  ElementwiseOps& ops = device->elementwise();
  Stream& stream = device.stream();
  EXPECT_THROW(ops.zero({}, stream), InternalError);
  EXPECT_THROW(ops.zero(x.column_range(0, 3), stream), InternalError);
  EXPECT_THROW(ops.copy(x, other, stream), InternalError);
  EXPECT_THROW(ops.copy(tokens, device.tensor({4}), stream), InternalError);
  EXPECT_THROW(ops.copy(x.row_range(0, 2), x.row_range(1, 3), stream), InternalError);
  EXPECT_THROW(ops.cast(x, other, 1, stream), InternalError);
  EXPECT_THROW(ops.cast(tokens, device.tensor({4}), 1, stream), InternalError);
  EXPECT_THROW(ops.cast(Tensor(x.data, DType::bf16, {4, 32}), x, 1, stream), InternalError);
  EXPECT_THROW(ops.add(x, x, other, stream), InternalError);
  EXPECT_THROW(ops.add(x, x, bf16, stream), InternalError);
  EXPECT_THROW(ops.add(tokens, tokens, tokens, stream), InternalError);
  EXPECT_THROW(ops.gelu_forward(x, other, stream), InternalError);
  EXPECT_THROW(ops.gelu_forward(bf16, x, stream), InternalError);
  EXPECT_THROW(ops.gelu_backward(x, other, x, stream), InternalError);
  EXPECT_THROW(ops.swiglu_forward(half, other, stream), InternalError);
  EXPECT_THROW(ops.swiglu_forward(half, bf16, stream), InternalError);
  EXPECT_THROW(ops.swiglu_backward(other, half, x, stream), InternalError);
  EXPECT_THROW(ops.rotary(other, table, Turn::Forward, stream), InternalError);
  EXPECT_THROW(ops.rotary(x, device.tensor({3, 16}), Turn::Forward, stream), InternalError);
  EXPECT_THROW(ops.rotary(x, device.tensor({4, 1}), Turn::Forward, stream), InternalError);
  EXPECT_THROW(ops.rotary(x, device.tensor({4, 16}, DType::bf16), Turn::Forward, stream), InternalError);
  EXPECT_THROW(ops.ordered_sum(device.tensor({31}), x, stream), InternalError);
  EXPECT_THROW(ops.ordered_sum(x.row_range(1, 2).reshaped({32}), x, stream), InternalError);
  EXPECT_THROW(ops.ordered_sum(device.tensor({32}, DType::f16), f16, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, row, x, x, 4, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, other, x, 4, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, x, x, 3, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, x, {}, 3, stream), InternalError);
  EXPECT_THROW(ops.embedding_forward(x, tokens, x, x.row_range(0, 2), 4, stream), InternalError);
  EXPECT_THROW(ops.token_embedding_backward(x, other, tokens, tokens, GradientWrite::Add, {}, stream), InternalError);
  EXPECT_THROW(ops.token_embedding_backward(f16, f16, tokens, tokens, GradientWrite::Add, {}, stream), InternalError);
  EXPECT_THROW(ops.position_embedding_backward(x, x, 3, GradientWrite::Add, {}, stream), InternalError);
  EXPECT_THROW(ops.position_embedding_backward(f16, x, 4, GradientWrite::Add, {}, stream), InternalError);
}

}  // namespace
}  // namespace tessera
