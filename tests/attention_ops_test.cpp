#include "kernels/attention_ops.h"

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference.h"

namespace tessera::op_test {
namespace {

/// Random operands of one call; q, k and v are column ranges of one matrix, and so are their gradients.
struct Operands {
  explicit Operands(AttentionShape shape) : s(shape) {}
  const AttentionShape s;
  const int64_t N = s.B * s.T, Q = s.A * s.D, KV = s.K * s.D;
  std::vector<float> q = random_values(N * Q, "q"), k = random_values(N * KV, "k"), v = random_values(N * KV, "v"),
                     dy = random_values(N * Q, "dy");
};

struct Results {
  std::vector<float> y, lse, dq, dk, dv;
  bool operator==(const Results&) const = default;
};

Results run(const Operands& o, int threads) {
  TestDevice device = TestDevice::cpu(threads);
  const Tensor fused = device.tensor({o.N, o.Q + 2 * o.KV}), gradients = device.tensor({o.N, o.Q + 2 * o.KV});
  const Tensor q = device.columns(fused, 0, o.Q, o.q), k = device.columns(fused, o.Q, o.Q + o.KV, o.k),
               v = device.columns(fused, o.Q + o.KV, o.Q + 2 * o.KV, o.v);
  const Tensor dq = gradients.column_range(0, o.Q), dk = gradients.column_range(o.Q, o.Q + o.KV),
               dv = gradients.column_range(o.Q + o.KV, o.Q + 2 * o.KV);
  const Tensor y = device.tensor({o.N, o.Q}), lse = device.tensor({o.s.B, o.s.A, o.s.T}), delta = device.tensor({o.s.B, o.s.A, o.s.T});
  device->attention().attention_forward(y, lse, q, k, v, o.s, device.stream());
  // What gradients hold before must not matter.
  device->write(gradients, random_values(gradients.elements(), "old").data(), gradients.bytes());
  device->attention().attention_backward(dq, dk, dv, delta, device.tensor({o.N, o.Q}, o.dy), q, k, v, y, lse, o.s, device.stream());
  return {device.values(y), device.values(lse), device.values(dq), device.values(dk), device.values(dv)};
}

template <class Scalar>
std::pair<reference::Attention<Scalar>, reference::AttentionGradients<Scalar>> by_plain_loops(const Operands& o) {
  const auto q = converted<Scalar>(o.q), k = converted<Scalar>(o.k), v = converted<Scalar>(o.v);
  const auto forward = reference::attention_forward(q, k, v, o.s);
  return {forward, reference::attention_backward(converted<Scalar>(o.dy), q, k, v, forward, o.s)};
}

class AttentionOps : public testing::TestWithParam<AttentionShape> {};

TEST_P(AttentionOps, ForwardAndBackwardAreAsExactAsPlainCode) {
  const Operands operands(GetParam());
  const Results ours = run(operands, 2);
  const auto [exact, exact_gradients] = by_plain_loops<double>(operands);
  const auto [plain, plain_gradients] = by_plain_loops<float>(operands);
  expect_as_exact_as_plain_code("y", ours.y, plain.y, exact.y);
  expect_as_exact_as_plain_code("lse", ours.lse, plain.lse, exact.lse);
  expect_as_exact_as_plain_code("dv", ours.dv, plain_gradients.dv, exact_gradients.dv);
  if (GetParam().T == 1) {  // one key has weight 1 whatever its score: dq and dk are zero, and rounding is all that is left of them
    for (const auto& gradient : {ours.dq, ours.dk}) {
      for (float value : gradient) EXPECT_NEAR(value, 0, 1e-5);
    }
    return;
  }
  expect_as_exact_as_plain_code("dq", ours.dq, plain_gradients.dq, exact_gradients.dq);
  expect_as_exact_as_plain_code("dk", ours.dk, plain_gradients.dk, exact_gradients.dk);
}

TEST_P(AttentionOps, BitsDependNeitherOnTheRunNorOnTheNumberOfThreads) {
  const Operands operands(GetParam());
  const Results first = run(operands, 1);
  EXPECT_TRUE(run(operands, 1) == first);
  EXPECT_TRUE(run(operands, 2) == first);
  EXPECT_TRUE(run(operands, 5) == first) << "with more threads than heads";
}

INSTANTIATE_TEST_SUITE_P(
    OneElementOddSizesRealWidths, AttentionOps,
    testing::Values(AttentionShape{.B = 1, .T = 1, .A = 1, .K = 1, .D = 1}, AttentionShape{.B = 3, .T = 1, .A = 2, .K = 1, .D = 8},
                    AttentionShape{.B = 2, .T = 7, .A = 3, .K = 3, .D = 5}, AttentionShape{.B = 2, .T = 63, .A = 2, .K = 2, .D = 24},
                    AttentionShape{.B = 1, .T = 65, .A = 1, .K = 1, .D = 40}, AttentionShape{.B = 1, .T = 130, .A = 4, .K = 2, .D = 16},
                    AttentionShape{.B = 2, .T = 128, .A = 2, .K = 1, .D = 64}, AttentionShape{.B = 1, .T = 300, .A = 1, .K = 1, .D = 128},
                    AttentionShape{.B = 1, .T = 70, .A = 1, .K = 1, .D = 256}));

TEST(AttentionReference, GradientsAreTheCentralDifferences) {
  const AttentionShape s{.B = 2, .T = 4, .A = 2, .K = 1, .D = 3};
  const Operands o(s);
  auto q = converted<double>(o.q), k = converted<double>(o.k), v = converted<double>(o.v);
  const auto dy = converted<double>(o.dy);
  const auto loss = [&] { return dot(reference::attention_forward(q, k, v, s).y, dy); };
  const auto gradients = reference::attention_backward(dy, q, k, v, reference::attention_forward(q, k, v, s), s);
  EXPECT_LE(max_error(gradients.dq, central_differences(q, loss)), 1e-8);
  EXPECT_LE(max_error(gradients.dk, central_differences(k, loss)), 1e-8);
  EXPECT_LE(max_error(gradients.dv, central_differences(v, loss)), 1e-8);
}

TEST(AttentionCausality, ALaterTokenChangesNothingBefore) {
  Operands operands({.B = 1, .T = 100, .A = 2, .K = 2, .D = 16});
  const Results before = run(operands, 2);
  const int64_t changed = 77;
  for (int64_t i = changed * operands.Q; i < operands.N * operands.Q; i++) operands.q[i] += 1, operands.k[i] -= 1, operands.v[i] += 2;
  const Results after = run(operands, 2);
  const int64_t prefix = changed * operands.Q;
  EXPECT_TRUE(std::equal(before.y.begin(), before.y.begin() + prefix, after.y.begin()));
  EXPECT_FALSE(std::equal(before.y.begin() + prefix, before.y.end(), after.y.begin() + prefix));
}

TEST(AttentionNumerics, LargeScoresDoNotOverflow) {
  Operands operands({.B = 1, .T = 90, .A = 1, .K = 1, .D = 8});
  for (float& value : operands.q) value *= 100;
  for (float& value : operands.k) value *= 100;
  const Results ours = run(operands, 1);
  const auto [exact, exact_gradients] = by_plain_loops<double>(operands);
  const auto [plain, plain_gradients] = by_plain_loops<float>(operands);
  expect_as_exact_as_plain_code("y", ours.y, plain.y, exact.y);
  expect_as_exact_as_plain_code("lse", ours.lse, plain.lse, exact.lse);
}

TEST(AttentionNumerics, ANanInTheValuesReachesTheOutput) {
  Operands operands({.B = 1, .T = 3, .A = 1, .K = 1, .D = 8});
  operands.q[8] = NAN;  // token 1
  const Results ours = run(operands, 1);
  EXPECT_TRUE(std::isfinite(ours.y[0]));
  EXPECT_TRUE(std::isnan(ours.y[8]));
}

TEST(AttentionChecks, WrongShapesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const auto forward = [&](AttentionShape s, int64_t query_columns, int64_t key_columns, Shape lse) {
    const Tensor q = device.tensor({6, query_columns}), k = device.tensor({6, key_columns});
    device->attention().attention_forward(device.tensor({6, query_columns}), device.tensor(lse), q, k, k, s, device.stream());
  };
  EXPECT_NO_THROW(forward({2, 3, 4, 2, 8}, 32, 16, {2, 4, 3}));
  EXPECT_THROW(forward({2, 3, 4, 2, 8}, 32, 32, {2, 4, 3}), InternalError);
  EXPECT_THROW(forward({2, 3, 4, 2, 8}, 32, 16, {2, 3, 4}), InternalError);
  EXPECT_THROW(forward({2, 3, 4, 3, 8}, 32, 24, {2, 4, 3}), InternalError) << "4 heads do not share 3";
  EXPECT_THROW(forward({2, 3, 1, 1, 264}, 264, 264, {2, 1, 3}), InternalError) << "wider than a tile";
}

TEST(AttentionTrace, NullRecordsWhatCpuRecordsAndPricesTheCausalHalf) {
  const AttentionShape s{2, 3, 4, 2, 8};
  const auto both = [&](TestDevice& device) {
    const Tensor q = device.tensor({6, 32}), k = device.tensor({6, 16}), lse = device.tensor({2, 4, 3});
    device->attention().attention_forward(q, lse, q, k, k, s, device.stream());
    device->attention().attention_backward(q, k, k, lse, q, q, k, k, q, lse, s, device.stream());
  };
  expect_same_trace_on_null(2, both);
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace), both(device);
  const double pairs = 2 * 4 * (1 + 2 + 3);
  EXPECT_EQ(trace[0].info.flops, 4 * 8 * pairs);
  EXPECT_EQ(trace[1].info.flops, 10 * 8 * pairs);
}

}  // namespace
}  // namespace tessera::op_test
