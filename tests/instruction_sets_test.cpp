// One binary runs on every x86-64: each instruction set that this machine has is tried in turn.
#include <gtest/gtest.h>

#include "kernels/cpu/targets.h"
#include "tests/op_test.h"
#include "tests/reference.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/instruction_sets_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

int64_t target_here() { return HWY_TARGET; }
void exp_of(const float* x, float* y, int64_t n) {
  for_each_vector(n, [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(exp(d, hn::LoadU(d, x + i)), d, y + i); });
}
void tanh_of(const float* x, float* y, int64_t n) {
  for_each_vector(n, [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(tanh(d, hn::LoadU(d, x + i)), d, y + i); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(target_here);
HWY_EXPORT(exp_of);
HWY_EXPORT(tanh_of);

namespace {

using op_test::converted, op_test::expect_as_exact_as_plain_code, op_test::random_values, op_test::TestDevice;

/// Calls `test` once for each instruction set, with Highway's dispatch held to it.
template <class Test>
void on_every_instruction_set(Test test) {
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  for (int64_t left = usable; left != 0; left &= left - 1) {
    hwy::SetSupportedTargetsForTest(left & -left);
    SCOPED_TRACE(hwy::TargetName(left & -left));
    ASSERT_EQ(HWY_DYNAMIC_DISPATCH(target_here)(), left & -left);
    EXPECT_EQ(Device::cpu(1)->traits().isa, hwy::TargetName(left & -left));
    test();
  }
  hwy::SetSupportedTargetsForTest(0);
}

/// The largest error in units in the last place of the exact value.
template <class Exact>
double worst_ulps(const std::vector<float>& x, const std::vector<float>& y, Exact exact) {
  double worst = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const double value = exact(static_cast<double>(x[i]));
    if (value != 0) worst = std::max(worst, std::abs(y[i] - value) / std::ldexp(1.0, std::ilogb(value) - 23));
  }
  return worst;
}

std::vector<float> evenly(double from, double to, int count) {
  std::vector<float> x(count);
  for (int i = 0; i < count; i++) x[i] = static_cast<float>(from + (to - from) * i / (count - 1));
  return x;
}

TEST(EveryInstructionSet, ExpIsWithinOneAndAHalfUnitsInTheLastPlace) {
  on_every_instruction_set([] {
    for (const auto& x : {evenly(-87.29, 88.29, 1000003), evenly(-1e-3, 1e-3, 10001)}) {
      std::vector<float> y(x.size());
      HWY_DYNAMIC_DISPATCH(exp_of)(x.data(), y.data(), static_cast<int64_t>(x.size()));
      EXPECT_LE(worst_ulps(x, y, [](double v) { return std::exp(v); }), 1.5);
    }
  });
}

TEST(EveryInstructionSet, ExpEndsInZeroInfinityAndNan) {
  on_every_instruction_set([] {
    const std::vector<float> x = {-88, -1e30f, -INFINITY, 0, 89, 1e30f, INFINITY, NAN};
    std::vector<float> y(8);
    HWY_DYNAMIC_DISPATCH(exp_of)(x.data(), y.data(), 8);
    EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 7), (std::vector<float>{0, 0, 0, 1, INFINITY, INFINITY, INFINITY}));
    EXPECT_TRUE(std::isnan(y[7]));
  });
}

TEST(EveryInstructionSet, TanhIsWithinThreeUnitsInTheLastPlace) {
  on_every_instruction_set([] {
    for (const auto& x : {evenly(-12, 12, 1000003), evenly(-1e-3, 1e-3, 10001)}) {
      std::vector<float> y(x.size());
      HWY_DYNAMIC_DISPATCH(tanh_of)(x.data(), y.data(), static_cast<int64_t>(x.size()));
      EXPECT_LE(worst_ulps(x, y, [](double v) { return std::tanh(v); }), 3);
    }
    const std::vector<float> x = {INFINITY, -INFINITY, NAN};
    std::vector<float> y(3);
    HWY_DYNAMIC_DISPATCH(tanh_of)(x.data(), y.data(), 3);
    EXPECT_EQ(y[0], 1);
    EXPECT_EQ(y[1], -1);
    EXPECT_TRUE(std::isnan(y[2]));
  });
}

TEST(EveryInstructionSet, AttentionIsAsExactAsPlainCode) {
  const AttentionShape s{.B = 1, .T = 83, .A = 2, .K = 1, .D = 24};
  const int64_t Q = s.A * s.D, KV = s.K * s.D;
  const auto q = random_values(s.T * Q, "q"), k = random_values(s.T * KV, "k"), v = random_values(s.T * KV, "v"),
             dy = random_values(s.T * Q, "dy");
  const auto exact = reference::attention_forward(converted<double>(q), converted<double>(k), converted<double>(v), s);
  const auto plain = reference::attention_forward(q, k, v, s);
  const auto exact_gradients =
      reference::attention_backward(converted<double>(dy), converted<double>(q), converted<double>(k), converted<double>(v), exact, s);
  const auto plain_gradients = reference::attention_backward(dy, q, k, v, plain, s);
  on_every_instruction_set([&] {
    TestDevice device = TestDevice::cpu();
    const Tensor tq = device.tensor({s.T, Q}, q), tk = device.tensor({s.T, KV}, k), tv = device.tensor({s.T, KV}, v),
                 y = device.tensor({s.T, Q}), lse = device.tensor({1, s.A, s.T}), dq = device.tensor({s.T, Q}),
                 dk = device.tensor({s.T, KV}), dv = device.tensor({s.T, KV});
    device->attention().attention_forward(y, lse, tq, tk, tv, s, device.stream());
    device->attention().attention_backward(dq, dk, dv, device.tensor({1, s.A, s.T}), device.tensor({s.T, Q}, dy), tq, tk, tv, y, lse, s,
                                           device.stream());
    expect_as_exact_as_plain_code("y", device.values(y), plain.y, exact.y);
    expect_as_exact_as_plain_code("dq", device.values(dq), plain_gradients.dq, exact_gradients.dq);
    expect_as_exact_as_plain_code("dk", device.values(dk), plain_gradients.dk, exact_gradients.dk);
    expect_as_exact_as_plain_code("dv", device.values(dv), plain_gradients.dv, exact_gradients.dv);
  });
}

TEST(EveryInstructionSet, CrossEntropyIsAsExactAsPlainCode) {
  const int64_t R = 3, V = 1001;
  const auto logits = random_values(R * V, "logits", 3);
  const std::vector<int32_t> targets = {0, 1000, 500};
  auto exact = converted<double>(logits);
  auto plain = logits;
  const auto exact_losses = reference::cross_entropy<double>(exact, targets, V, 1);
  const auto plain_losses = reference::cross_entropy<float>(plain, targets, V, 1);
  on_every_instruction_set([&] {
    TestDevice device = TestDevice::cpu();
    const Tensor losses = device.tensor({R}), gradient = device.tensor({R, V}, logits);
    device->loss().cross_entropy(losses, gradient, device.tensor({R}, targets), 1, device.stream());
    expect_as_exact_as_plain_code("losses", device.values(losses), plain_losses, exact_losses);
    expect_as_exact_as_plain_code("gradient", device.values(gradient), plain, exact);
  });
}

}  // namespace
}  // namespace tessera
#endif
