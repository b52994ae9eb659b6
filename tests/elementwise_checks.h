#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "tests/op_test.h"
#include "tests/reference_elementwise.h"

/// One elementwise op on a device against plain loops, for tests that run it in several types, sizes or instruction sets.
namespace tessera::op_test {

/// No farther from the exact values than the nearest numbers of the type, but for what fp32 arithmetic adds: truncation fails.
inline void expect_rounded_to_nearest(const char* what, const std::vector<float>& ours, const std::vector<double>& exact, DType dtype) {
  const std::vector<float> nearest = rounded_to(dtype, converted<float>(exact));
  double excess = 0, scale = 0;
  for (size_t i = 0; i < exact.size(); i++) {
    excess = std::max(excess, std::abs(ours[i] - exact[i]) - std::abs(nearest[i] - exact[i]));
    scale = std::max(scale, std::abs(exact[i]));
  }
  EXPECT_LE(excess, scale * 0x1p-20) << what << ' ' << name_of(dtype);
}

inline void expect_exact_and_nearest(const char* what, const std::vector<float>& ours, const std::vector<float>& plain,
                                     const std::vector<double>& exact, DType dtype) {
  expect_as_exact_as_plain_code(what, ours, plain, exact, dtype);
  expect_rounded_to_nearest(what, ours, exact, dtype);
}

/// Values that every type must round: numbers of all sizes, ties between neighbours of bf16 and of fp16, what is too large for fp16 or too
/// small, infinities, NaN with all bits set.
inline std::vector<float> values_to_round(int64_t n) {
  std::vector<float> values = random_values(n, "cast");
  const std::vector<float> special = {0.0f,         -0.0f, 1 + 0x1p-8f,     1 + 0x3p-8f, -1 - 0x1p-8f, 1 + 0x1p-11f,
                                      1 + 0x3p-11f, 65519, 65520,           -1e6f,       0x1p-24f,     0x1p-25f,
                                      0x1.8p-25f,   3e-6f, 0x1.fffffep127f, INFINITY,    -INFINITY,    std::bit_cast<float>(0x7FFFFFFFu)};
  for (size_t i = 0; i < values.size(); i++) {
    if (i % 3 == 1) values[i] = special[i / 3 % special.size()];
    if (i % 3 == 2) values[i] = std::ldexp(values[i], static_cast<int>(i % 60) - 40);
  }
  return values;
}

/// Equal, where NaN equals NaN.
inline void expect_same_numbers(const char* what, const std::vector<float>& ours, const std::vector<float>& expected) {
  ASSERT_EQ(ours.size(), expected.size());
  for (size_t i = 0; i < ours.size(); i++) {
    ASSERT_TRUE(ours[i] == expected[i] || (std::isnan(ours[i]) && std::isnan(expected[i])))
        << what << " [" << i << "]: " << ours[i] << ", not " << expected[i];
  }
}

/// factor * from and a + b, made in fp32, rounded once.
inline void check_cast(TestDevice& device, int64_t n, DType from, DType to, float factor) {
  SCOPED_TRACE(testing::Message() << n << ' ' << name_of(from) << " to " << name_of(to));
  std::vector<float> expected = rounded_to(from, values_to_round(n));
  const Tensor from_tensor = device.tensor({n}, expected, from), to_tensor = device.tensor({n}, to);
  for (float& value : expected) value *= factor;
  device->elementwise().cast(to_tensor, from_tensor, factor, device.stream());
  expect_same_numbers("cast", device.values(to_tensor), rounded_to(to, expected));
}

inline void check_add(TestDevice& device, int64_t n, DType dtype) {
  SCOPED_TRACE(testing::Message() << n << ' ' << name_of(dtype));
  const std::vector<float> a = rounded_to(dtype, values_to_round(n)), b = rounded_to(dtype, random_values(n, "b"));
  std::vector<float> expected = a;
  for (int64_t i = 0; i < n; i++) expected[i] += b[i];
  const Tensor a_tensor = device.tensor({n}, a, dtype), b_tensor = device.tensor({n}, b, dtype), out = device.tensor({n}, dtype);
  device->elementwise().add(out, a_tensor, b_tensor, device.stream());
  expect_same_numbers("a + b", device.values(out), rounded_to(dtype, expected));
  device->elementwise().add(a_tensor, a_tensor, b_tensor, device.stream());
  expect_same_numbers("a += b", device.values(a_tensor), rounded_to(dtype, expected));
}

inline void check_ordered_sum(TestDevice& device, int64_t R, int64_t n, DType dtype) {
  SCOPED_TRACE(testing::Message() << R << " pieces of " << n << ' ' << name_of(dtype));
  const std::vector<float> pieces = rounded_to(dtype, random_values(R * n, "pieces"));
  std::vector<float> expected(pieces.begin(), pieces.begin() + n);
  for (int64_t k = n; k < R * n; k++) expected[k % n] += pieces[k];
  const Tensor out = device.tensor({n}, dtype);
  device->elementwise().ordered_sum(out, device.tensor({R, n}, pieces, dtype), device.stream());
  EXPECT_EQ(device.values(out), rounded_to(dtype, expected));
}

/// The backward in place.
inline void check_gelu(TestDevice& device, int64_t n, DType dtype) {
  SCOPED_TRACE(testing::Message() << n << ' ' << name_of(dtype));
  const std::vector<float> x = rounded_to(dtype, random_values(n, "x", 3)), dy = rounded_to(dtype, random_values(n, "dy"));
  std::vector<float> plain(n), plain_gradient(n);
  std::vector<double> exact(n), exact_gradient(n);
  for (int64_t i = 0; i < n; i++) {
    plain[i] = reference::gelu(x[i]), plain_gradient[i] = dy[i] * reference::gelu_derivative(x[i]);
    exact[i] = reference::gelu<double>(x[i]), exact_gradient[i] = dy[i] * reference::gelu_derivative<double>(x[i]);
  }
  const Tensor y = device.tensor({n}, dtype), dx = device.tensor({n}, dy, dtype), x_tensor = device.tensor({n}, x, dtype);
  device->elementwise().gelu_forward(y, x_tensor, device.stream());
  device->elementwise().gelu_backward(dx, dx, x_tensor, device.stream());
  expect_exact_and_nearest("y", device.values(y), plain, exact, dtype);
  expect_exact_and_nearest("dx", device.values(dx), plain_gradient, exact_gradient, dtype);
}

/// The backward apart and in place.
inline void check_swiglu(TestDevice& device, int64_t N, int64_t F, DType dtype) {
  SCOPED_TRACE(testing::Message() << N << " x " << F << ' ' << name_of(dtype));
  const std::vector<float> gate_up = rounded_to(dtype, random_values(2 * N * F, "gate_up", 3)),
                           dy = rounded_to(dtype, random_values(N * F, "dy"));
  const std::vector<double> exact_gate_up = converted<double>(gate_up), exact_dy = converted<double>(dy);
  const Tensor y = device.tensor({N, F}, dtype), in = device.tensor({N, 2 * F}, gate_up, dtype), din = device.tensor({N, 2 * F}, dtype),
               dy_tensor = device.tensor({N, F}, dy, dtype);
  device->elementwise().swiglu_forward(y, in, device.stream());
  expect_exact_and_nearest("y", device.values(y), reference::swiglu_forward(gate_up, F), reference::swiglu_forward(exact_gate_up, F),
                           dtype);
  device->elementwise().swiglu_backward(din, dy_tensor, in, device.stream());
  expect_exact_and_nearest("dgate_up", device.values(din), reference::swiglu_backward(dy, gate_up, F),
                           reference::swiglu_backward(exact_dy, exact_gate_up, F), dtype);
  device->elementwise().swiglu_backward(in, dy_tensor, in, device.stream());
  EXPECT_EQ(device.values(in), device.values(din)) << "in place";
}

/// [T, D]: cosines and sines of t 10000^(-2i/D).
inline std::vector<float> rotary_table(int64_t T, int64_t D) {
  std::vector<float> table(T * D);
  for (int64_t k = 0; k < T * D / 2; k++) {
    const int64_t t = k / (D / 2), i = k % (D / 2);
    const double angle = static_cast<double>(t) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(D));
    table[t * D + i] = static_cast<float>(std::cos(angle)), table[t * D + D / 2 + i] = static_cast<float>(std::sin(angle));
  }
  return table;
}

/// On the first columns of a wider matrix; the others stay as they are.
inline void check_rotary(TestDevice& device, int64_t sequences, int64_t T, int64_t heads, int64_t D, DType dtype) {
  SCOPED_TRACE(testing::Message() << sequences << " x " << T << " x " << heads << " x " << D << ' ' << name_of(dtype));
  const int64_t N = sequences * T, width = heads * D, others = 5;
  const std::vector<float> x = rounded_to(dtype, random_values(N * width, "x")), table = rotary_table(T, D);
  const std::vector<double> exact_x = converted<double>(x), exact_table = converted<double>(table);
  for (const Turn turn : {Turn::Forward, Turn::Backward}) {
    const Tensor matrix = device.tensor({N, width + others}, std::vector<float>(N * (width + others), 7), dtype);
    const Tensor view = device.columns(matrix, 0, width, x);
    device->elementwise().rotary(view, device.tensor({T, D}, table), turn, device.stream());
    expect_exact_and_nearest("turned", device.values(view), reference::rotary(x, width, table, T, D, turn),
                             reference::rotary(exact_x, width, exact_table, T, D, turn), dtype);
    EXPECT_EQ(device.values(matrix.column_range(width, width + others)), std::vector<float>(N * others, 7));
  }
}

struct EmbeddingSize {
  int64_t sequences, T, H, V, P;
};

/// Row numbers sorted stably by token.
inline std::vector<int32_t> sorted_by_token(const std::vector<int32_t>& tokens) {
  std::vector<int32_t> order(tokens.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
  return order;
}

/// Tokens as text has them: few are frequent, most are rare.
inline std::vector<int32_t> random_tokens(int64_t count, int64_t V) {
  const RandomStream stream(7, RandomPurpose::Sample);
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; i++) {
    const double u = stream.uniform(i);
    tokens[i] = static_cast<int32_t>(u * u * u * static_cast<double>(V));
  }
  return tokens;
}

/// One rounded addition, or a copy.
inline void check_embedding_forward(TestDevice& device, const EmbeddingSize& s, DType dtype) {
  const int64_t N = s.sequences * s.T;
  SCOPED_TRACE(testing::Message() << s.sequences << " x " << s.T << " x " << s.H << ' ' << name_of(dtype));
  const std::vector<int32_t> tokens = random_tokens(N, s.V);
  const std::vector<float> token_weight = rounded_to(dtype, random_values(s.V * s.H, "token")),
                           position_weight = rounded_to(dtype, random_values(s.P * s.H, "position"));
  const Tensor h = device.tensor({N, s.H}, dtype), token_tensor = device.tensor({N}, tokens),
               token_table = device.tensor({s.V, s.H}, token_weight, dtype),
               position_table = device.tensor({s.P, s.H}, position_weight, dtype);
  device->elementwise().embedding_forward(h, token_tensor, token_table, position_table, s.T, device.stream());
  EXPECT_EQ(device.values(h), rounded_to(dtype, reference::embedding_forward(tokens, token_weight, position_weight, s.T, s.H)));
  device->elementwise().embedding_forward(h, token_tensor, token_table, {}, s.T, device.stream());
  EXPECT_EQ(device.values(h), reference::embedding_forward(tokens, token_weight, {}, s.T, s.H)) << "without positions";
}

struct EmbeddingGradients {
  std::vector<float> dtoken, dposition;
};

inline RandomStream token_rounding() { return RandomStream(3, RandomPurpose::Rounding, "token", 5); }
inline RandomStream position_rounding() { return RandomStream(3, RandomPurpose::Rounding, "position", 5); }

/// What both backward ops make of tables of gradients that hold `before`, or NaN where they overwrite.
inline EmbeddingGradients embedding_backward(TestDevice& device, const EmbeddingSize& s, const std::vector<int32_t>& tokens,
                                             const std::vector<float>& dh, DType dtype, GradientCase gradient, float before) {
  const int64_t N = s.sequences * s.T;
  const auto table = [&](int64_t rows) {
    return device.tensor({rows, s.H}, old_gradient(gradient, std::vector<float>(rows * s.H, before)), gradient.dtype);
  };
  const Tensor dtoken = table(s.V), dposition = table(s.P), dh_tensor = device.tensor({N, s.H}, dh, dtype);
  device->elementwise().token_embedding_backward(dtoken, dh_tensor, device.tensor({N}, tokens), device.tensor({N}, sorted_by_token(tokens)),
                                                 gradient.write, token_rounding(), device.stream());
  device->elementwise().position_embedding_backward(dposition, dh_tensor, s.T, gradient.write, position_rounding(), device.stream());
  return {device.values(dtoken), device.values(dposition)};
}

/// `before` plus the sums of the rows, each made in fp32 on its own; bf16 rounded by half word e at element e.
inline std::vector<float> added_and_rounded(const std::vector<float>& sums, float before, DType gradient, const RandomStream& rounding) {
  std::vector<float> result;
  for (size_t e = 0; e < sums.size(); e++) {
    const float sum = before + sums[e];
    result.push_back(gradient == DType::f32 ? sum : static_cast<float>(rounded_stochastically(sum, rounding.half_word(e))));
  }
  return result;
}

/// Bit for bit: the order of the sums and the random numbers are promised.
inline void check_embedding_backward(TestDevice& device, const EmbeddingSize& s, DType dtype, GradientCase gradient) {
  SCOPED_TRACE(testing::Message() << s.sequences << " x " << s.T << " x " << s.H << ' ' << name_of(dtype) << ' ' << text_of(gradient));
  const float before = 0.5f, added = gradient.write == GradientWrite::Add ? before : 0;
  const std::vector<int32_t> tokens = random_tokens(s.sequences * s.T, s.V);
  const std::vector<float> dh = rounded_to(dtype, random_values(s.sequences * s.T * s.H, "dh"));
  std::vector<float> dtoken(s.V * s.H), dposition(s.P * s.H);
  reference::embedding_backward(dtoken, dposition, dh, tokens, s.T, s.H);
  const EmbeddingGradients ours = embedding_backward(device, s, tokens, dh, dtype, gradient, before);
  EXPECT_EQ(ours.dtoken, added_and_rounded(dtoken, added, gradient.dtype, token_rounding()));
  EXPECT_EQ(ours.dposition, added_and_rounded(dposition, added, gradient.dtype, position_rounding()));
}

}  // namespace tessera::op_test
