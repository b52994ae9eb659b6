#include "kernels/attention_ops.h"

#include "base/error.h"
#include "kernels/cpu/bf16_kernels.h"
#include "tests/op_test.h"
#include "tests/reference.h"

namespace tessera::op_test {
namespace {

const std::vector<AttentionShape> shapes = {
    AttentionShape{.B = 1, .T = 1, .A = 1, .K = 1, .D = 8},    AttentionShape{.B = 3, .T = 1, .A = 2, .K = 1, .D = 16},
    AttentionShape{.B = 2, .T = 7, .A = 3, .K = 3, .D = 8},    AttentionShape{.B = 2, .T = 63, .A = 2, .K = 2, .D = 24},
    AttentionShape{.B = 1, .T = 65, .A = 1, .K = 1, .D = 40},  AttentionShape{.B = 1, .T = 130, .A = 4, .K = 2, .D = 16},
    AttentionShape{.B = 2, .T = 128, .A = 2, .K = 1, .D = 64}, AttentionShape{.B = 1, .T = 300, .A = 1, .K = 1, .D = 128},
    AttentionShape{.B = 1, .T = 70, .A = 1, .K = 1, .D = 256}};

/// Where each CUDA thread is a fiber, two or three tiles of rows stand for many.
AttentionShape under_test(AttentionShape shape) {
  if (emulated() && shape.D >= 64) shape.B = 1, shape.T = std::min<int64_t>(shape.T, 70);
  return shape;
}

/// Random operands of one call, as the type under test holds them; q, k and v are column ranges of one matrix, and so are their gradients.
struct Operands {
  explicit Operands(AttentionShape shape, DType type = DType::f32) : s(shape), dtype(type) {}
  std::vector<float> values(int64_t count, const char* name) const { return rounded_to(dtype, random_values(count, name)); }
  const AttentionShape s;
  const DType dtype;
  const int64_t N = s.B * s.T, Q = s.A * s.D, KV = s.K * s.D;
  std::vector<float> q = values(N * Q, "q"), k = values(N * KV, "k"), v = values(N * KV, "v"), dy = values(N * Q, "dy");
};

struct Results {
  std::vector<float> y, lse, dq, dk, dv;
  bool operator==(const Results&) const = default;
};

bool has_way(const ::tessera::AttentionOps& attention, OpKind kind, const ShapeKey& shape, std::string_view way) {
  return std::ranges::count(attention.candidates(kind, shape), way) > 0;
}

/// Computed in this way, where the device has a choice; empty: by rule.
Results run(const Operands& o, int threads, std::string_view way = {}) {
  TestDevice device = TestDevice::under_test(threads);
  ::tessera::AttentionOps* attention = &device->attention();
  for (const OpKind kind : {OpKind::AttentionForward, OpKind::AttentionBackward}) {
    const ShapeKey shape = attention_shape(o.s, o.dtype);
    const bool chosen = kind_under_test() == DeviceKind::Cpu ? !way.empty() : has_way(*attention, kind, shape, way);
    if (chosen) attention->choose(kind, shape, std::string(way));
  }
  const int64_t width = o.Q + 2 * o.KV;
  const Tensor fused = device.tensor({o.N, width}, o.dtype);
  const Tensor q = device.columns(fused, 0, o.Q, o.q), k = device.columns(fused, o.Q, o.Q + o.KV, o.k),
               v = device.columns(fused, o.Q + o.KV, width, o.v);
  // What gradients hold before must not matter.
  const Tensor gradients = device.tensor({o.N, width}, random_values(o.N * width, "old"), o.dtype);
  const Tensor dq = gradients.column_range(0, o.Q), dk = gradients.column_range(o.Q, o.Q + o.KV),
               dv = gradients.column_range(o.Q + o.KV, width);
  const Shape statistics = {o.s.B, o.s.A, o.s.T};
  const Tensor y = device.tensor({o.N, o.Q}, o.dtype), lse = device.tensor(statistics);
  attention->attention_forward(y, lse, q, k, v, o.s, device.stream());
  attention->attention_backward(dq, dk, dv, device.tensor(statistics), device.tensor({o.N, o.Q}, o.dy, o.dtype), q, k, v, y, lse, o.s,
                                device.stream());
  return {device.values(y), device.values(lse), device.values(dq), device.values(dk), device.values(dv)};
}

template <class Scalar>
reference::Attention<Scalar> forward_by_plain_loops(const Operands& o) {
  return reference::attention_forward(converted<Scalar>(o.q), converted<Scalar>(o.k), converted<Scalar>(o.v), o.s);
}

/// From the y and lse that the backward was given.
template <class Scalar>
reference::AttentionGradients<Scalar> backward_by_plain_loops(const Operands& o, const Results& given, bool magnitudes = false) {
  return reference::attention_backward(converted<Scalar>(o.dy), converted<Scalar>(o.q), converted<Scalar>(o.k), converted<Scalar>(o.v),
                                       {converted<Scalar>(given.y), converted<Scalar>(given.lse)}, o.s, magnitudes);
}

double largest(const std::vector<double>& values) { return *std::max_element(values.begin(), values.end()); }

/// The bound of every op, and in bf16 what rounding the weights of a sum (p or ds) may add to it: each weight changes by at most half an
/// epsilon of its own size, so a sum changes by at most that part of its terms' magnitudes.
void expect_weighted_sums(const char* what, const std::vector<float>& ours, const std::vector<float>& plain,
                          const std::vector<double>& exact, const std::vector<double>& magnitudes, DType dtype) {
  double scale = std::numeric_limits<double>::min();
  for (const double value : exact) scale = std::max(scale, std::abs(value));
  const double weights = dtype == DType::bf16 ? epsilon_of(dtype) / 2 * largest(magnitudes) / scale : 0;
  EXPECT_LE(max_error(ours, exact), 2 * max_error(rounded_to(dtype, plain), exact) + epsilon_of(dtype) + weights)
      << what << ' ' << name_of(dtype);
}

void expect_exact_forward(const Operands& o, const Results& ours) {
  const auto exact = forward_by_plain_loops<double>(o);
  const auto plain = forward_by_plain_loops<float>(o);
  Operands positive = o;
  for (auto* operand : {&positive.q, &positive.k, &positive.v}) {
    for (float& value : *operand) value = std::abs(value);
  }
  const auto scores = forward_by_plain_loops<double>(positive).lse;  // for one token: the magnitude of its score's terms
  positive.q = o.q, positive.k = o.k;
  expect_weighted_sums("y", ours.y, plain.y, exact.y, forward_by_plain_loops<double>(positive).y, o.dtype);
  if (o.s.T == 1) {  // lse is one score, whose terms may cancel: at most D + 2 roundings
    for (size_t i = 0; i < scores.size(); i++) EXPECT_NEAR(ours.lse[i], exact.lse[i], 0x1p-24 * (o.s.D + 2) * scores[i]);
  } else {
    expect_as_exact_as_plain_code("lse", ours.lse, plain.lse, exact.lse);
  }
}

void expect_exact_backward(const Operands& o, const Results& ours) {
  const auto exact = backward_by_plain_loops<double>(o, ours), magnitudes = backward_by_plain_loops<double>(o, ours, true);
  const auto plain = backward_by_plain_loops<float>(o, ours);
  expect_weighted_sums("dv", ours.dv, plain.dv, exact.dv, magnitudes.dv, o.dtype);
  if (o.s.T == 1) {  // one key has weight 1 whatever its score: dq and dk are zero, and rounding is all that is left of them
    for (const auto& gradient : {ours.dq, ours.dk}) {
      for (float value : gradient) EXPECT_NEAR(value, 0, 1e-5);
    }
    return;
  }
  expect_weighted_sums("dq", ours.dq, plain.dq, exact.dq, magnitudes.dq, o.dtype);
  expect_weighted_sums("dk", ours.dk, plain.dk, exact.dk, magnitudes.dk, o.dtype);
}

class AttentionOps : public testing::TestWithParam<std::tuple<AttentionShape, DType>> {
 protected:
  const Operands operands{under_test(std::get<AttentionShape>(GetParam())), std::get<DType>(GetParam())};
};

TEST_P(AttentionOps, ForwardAndBackwardAreAsExactAsPlainCode) {
  const Results ours = run(operands, 2);
  expect_exact_forward(operands, ours);
  expect_exact_backward(operands, ours);
}

TEST_P(AttentionOps, BitsDependNeitherOnTheRunNorOnTheNumberOfThreads) {
  const Results first = run(operands, 1);
  EXPECT_TRUE(run(operands, 1) == first);
  if (emulated()) return;  // no threads there
  EXPECT_TRUE(run(operands, 2) == first);
  EXPECT_TRUE(run(operands, 5) == first) << "with more threads than heads";
}

INSTANTIATE_TEST_SUITE_P(OneTokenOddSizesRealWidths, AttentionOps,
                         testing::Combine(testing::ValuesIn(shapes), testing::ValuesIn(compute_types)));

/// Where cuDNN has kernels for the shape; forward and backward need not both.
TEST(AttentionByCudnn, IsAsExactAsPlainCodeAndGivesTheSameBits) {
  TestDevice device = TestDevice::under_test();
  int computed = 0;
  for (const AttentionShape& s : shapes) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const auto known = [&](OpKind kind) { return has_way(device->attention(), kind, attention_shape(s, dtype), "cudnn"); };
      if (!known(OpKind::AttentionForward) && !known(OpKind::AttentionBackward)) continue;
      computed++;
      const Operands operands(s, dtype);
      const Results ours = run(operands, 2, "cudnn");
      expect_exact_forward(operands, ours);
      expect_exact_backward(operands, ours);
      EXPECT_TRUE(run(operands, 2, "cudnn") == ours);
    }
  }
  if (computed == 0) GTEST_SKIP() << "cuDNN computes nothing here";
}

/// Every bf16 kernel, and fp32 tiles, whichever this machine would choose. Real AMX where there is AMX.
class AttentionBf16Kernels : public testing::TestWithParam<std::tuple<AttentionShape, Bf16Kernel>> {};

TEST_P(AttentionBf16Kernels, AreAsExactAsPlainCodeAtAnyNumberOfThreads) {
  const auto& [shape, kernel] = GetParam();
  const auto usable = bf16_kernel_candidates();
  if (kernel != Bf16Kernel::EmulatedAmx && std::find(usable.begin(), usable.end(), kernel) == usable.end()) {
    GTEST_SKIP() << "this machine has no " << name_of(kernel);
  }
  const Operands operands(shape, DType::bf16);
  const Results ours = run(operands, 2, name_of(kernel));
  expect_exact_forward(operands, ours);
  expect_exact_backward(operands, ours);
  EXPECT_TRUE(run(operands, 3, name_of(kernel)) == ours);
}

INSTANTIATE_TEST_SUITE_P(OneTokenOddSizesRealWidths, AttentionBf16Kernels,
                         testing::Combine(testing::ValuesIn(shapes), testing::Values(Bf16Kernel::None, Bf16Kernel::Avx512Bf16,
                                                                                     Bf16Kernel::Amx, Bf16Kernel::EmulatedAmx)));

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
  for (const DType dtype : compute_types) {
    Operands operands({.B = 1, .T = emulated_or(70, 100), .A = emulated_or(1, 2), .K = emulated_or(1, 2), .D = 16}, dtype);
    const Results before = run(operands, 2);
    const int64_t changed = operands.s.T - 23;
    for (int64_t i = changed * operands.Q; i < operands.N * operands.Q; i++) operands.q[i] += 1, operands.k[i] -= 1, operands.v[i] += 2;
    const Results after = run(operands, 2);
    const int64_t prefix = changed * operands.Q;
    EXPECT_TRUE(std::equal(before.y.begin(), before.y.begin() + prefix, after.y.begin())) << name_of(dtype);
    EXPECT_FALSE(std::equal(before.y.begin() + prefix, before.y.end(), after.y.begin() + prefix)) << name_of(dtype);
  }
}

TEST(AttentionNumerics, LargeScoresDoNotOverflow) {
  for (const DType dtype : compute_types) {
    Operands operands({.B = 1, .T = 90, .A = 1, .K = 1, .D = 8}, dtype);
    for (float& value : operands.q) value *= 128;  // a power of two: the type holds it exactly
    for (float& value : operands.k) value *= 128;
    expect_exact_forward(operands, run(operands, 1));
  }
}

TEST(AttentionNumerics, ANanInTheValuesReachesTheOutput) {
  for (const DType dtype : compute_types) {
    Operands operands({.B = 1, .T = 3, .A = 1, .K = 1, .D = 8}, dtype);
    operands.q[8] = NAN;  // token 1
    const Results ours = run(operands, 1);
    EXPECT_TRUE(std::isfinite(ours.y[0])) << name_of(dtype);
    EXPECT_TRUE(std::isnan(ours.y[8])) << name_of(dtype);
  }
}

// 3000 queries send the first key 3000 equal gradients: a sum kept in 16 bits would stop growing at 256 (bf16) or 2048 (fp16). Emulated, 33
// heads of 64 queries each share the key.
TEST(AttentionNumerics, GradientsOfKeysAreSummedInFp32) {
  const AttentionShape s{.B = 1, .T = emulated_or(64, 3000), .A = emulated_or(33, 1), .K = 1, .D = 8};
  const int64_t Q = s.A * s.D;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    TestDevice device = TestDevice::under_test();
    const auto zeros = [&](int64_t columns) { return device.tensor({s.T, columns}, dtype); };
    const Tensor dv = zeros(s.D), dy = device.tensor({s.T, Q}, std::vector<float>(s.T * Q, 1), dtype), lse = device.tensor({1, s.A, s.T});
    // Scores and lse of zero: every query gives each key before it the weight 1.
    device->attention().attention_backward(zeros(Q), zeros(s.D), dv, device.tensor({1, s.A, s.T}), dy, zeros(Q), zeros(s.D), zeros(s.D),
                                           zeros(Q), lse, s, device.stream());
    const auto values = device.values(dv);
    for (int64_t t = 0; t < s.T; t++) {
      ASSERT_EQ(values[t * s.D], rounded_to(dtype, {static_cast<float>(s.A * (s.T - t))})[0]) << name_of(dtype) << " token " << t;
    }
  }
}

// The last token alone sees the last key: with dy = 1 that key's gradient dv is p itself, rounded once to bf16 or, where weights are bf16
// already, once before. Two and three tokens: a pair of keys is rounded together, and each is the last once.
TEST(AttentionNumerics, WeightsAreRoundedToNearest) {
  for (const int64_t T : {2, 3}) {
    Operands o({.B = emulated_or(24, 500), .T = T, .A = 1, .K = 1, .D = 8}, DType::bf16);
    std::fill(o.dy.begin(), o.dy.end(), 1.0f);
    const auto exact = forward_by_plain_loops<double>(o);
    for (const Bf16Kernel kernel : {bf16_kernel_candidates().front(), Bf16Kernel::EmulatedAmx}) {
      const Results ours = run(o, 2, name_of(kernel));
      int others = 0;
      for (int64_t last = T - 1; last < o.N; last += T) {
        const int64_t row = last * o.s.D;
        double score = 0;
        for (int64_t i = 0; i < o.s.D; i++) score += double{o.q[row + i]} * o.k[row + i];
        const double p = std::exp(score / std::sqrt(8.0) - exact.lse[last]);
        others += ours.dv[row] != rounded_to(DType::bf16, {static_cast<float>(p)})[0];
      }
      EXPECT_LE(others, o.s.B / 50) << name_of(kernel) << ": fp32's own error decides near a tie, and nowhere else";
      if (kind_under_test() != DeviceKind::Cpu) break;  // one kernel for all
    }
  }
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
  EXPECT_THROW(forward({2, 3, 1, 1, 12}, 12, 12, {2, 1, 3}), InternalError) << "no multiple of 8";
}

TEST(AttentionChecks, MatricesOfSeveralTypesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const auto forward = [&](DType y, DType q, DType k, DType lse) {
    const auto matrix = [&](DType dtype) { return device.tensor({6, 8}, dtype); };
    device->attention().attention_forward(matrix(y), device.tensor({2, 1, 3}, lse), matrix(q), matrix(k), matrix(q), {2, 3, 1, 1, 8},
                                          device.stream());
  };
  EXPECT_NO_THROW(forward(DType::bf16, DType::bf16, DType::bf16, DType::f32));
  EXPECT_THROW(forward(DType::f32, DType::bf16, DType::bf16, DType::f32), InternalError);
  EXPECT_THROW(forward(DType::bf16, DType::bf16, DType::f16, DType::f32), InternalError);
  EXPECT_THROW(forward(DType::bf16, DType::bf16, DType::bf16, DType::bf16), InternalError);
  EXPECT_THROW(forward(DType::f64, DType::f64, DType::f64, DType::f32), InternalError);
}

TEST(AttentionTrace, NullRecordsWhatCpuRecordsAndPricesTheCausalHalf) {
  const AttentionShape s{2, 3, 4, 2, 8};
  for (const DType dtype : compute_types) {
    const auto both = [&](TestDevice& device) {
      const auto queries = [&] { return device.tensor({6, 32}, dtype); };
      const auto keys = [&] { return device.tensor({6, 16}, dtype); };
      const Tensor q = queries(), k = keys(), v = keys(), y = queries(), lse = device.tensor({2, 4, 3});
      device->attention().attention_forward(y, lse, q, k, v, s, device.stream());
      device->attention().attention_backward(queries(), keys(), keys(), device.tensor({2, 4, 3}), queries(), q, k, v, y, lse, s,
                                             device.stream());
    };
    expect_same_trace_on_null(2, both);
    TestDevice device = TestDevice::null();
    Trace trace;
    device.stream().set_trace(&trace), both(device);
    const double pairs = 2 * 4 * (1 + 2 + 3);
    EXPECT_EQ(trace[0].info.flops, 4 * 8 * pairs);
    EXPECT_EQ(trace[1].info.flops, 10 * 8 * pairs);
    EXPECT_EQ(trace[0].info.read_bytes, bytes_of(dtype) * 6 * (32 + 16 + 16));
    EXPECT_EQ(trace[0].info.write_bytes, bytes_of(dtype) * 6 * 32 + 4 * 2 * 4 * 3);
  }
}

}  // namespace
}  // namespace tessera::op_test
