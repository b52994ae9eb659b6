// One binary runs on every x86-64: each instruction set that this machine has is tried in turn.
#include <gtest/gtest.h>

#include "kernels/cpu/targets.h"
#include "tests/elementwise_checks.h"
#include "tests/norm_runs.h"
#include "tests/op_test.h"
#include "tests/reference.h"
#include "tests/update_runs.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/instruction_sets_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

int64_t target_here() { return HWY_TARGET; }
void exp_of(const float* x, float* y, int64_t n) {
  for_each_vector(n, [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(exp(d, hn::LoadU(d, x + i)), d, y + i); });
}
void philox_words_of(const RandomStream& stream, uint64_t begin, int64_t count, uint32_t* even, uint32_t* odd) {
  philox_words(stream, begin, count, even, odd);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(target_here);
HWY_EXPORT(exp_of);
HWY_EXPORT(philox_words_of);

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

TEST(EveryInstructionSet, AttentionIsAsExactAsPlainCode) {
  const AttentionShape s{.B = 1, .T = 83, .A = 2, .K = 1, .D = 24};
  const int64_t Q = s.A * s.D, KV = s.K * s.D;
  for (const DType dtype : op_test::compute_types) {
    const auto values = [&](int64_t width, const char* name) { return op_test::rounded_to(dtype, random_values(s.T * width, name)); };
    const auto q = values(Q, "q"), k = values(KV, "k"), v = values(KV, "v"), dy = values(Q, "dy");
    const auto exact = reference::attention_forward(converted<double>(q), converted<double>(k), converted<double>(v), s);
    const auto plain = reference::attention_forward(q, k, v, s);
    on_every_instruction_set([&] {
      TestDevice device = TestDevice::cpu();
      const Tensor tq = device.tensor({s.T, Q}, q, dtype), tk = device.tensor({s.T, KV}, k, dtype), tv = device.tensor({s.T, KV}, v, dtype),
                   y = device.tensor({s.T, Q}, dtype), lse = device.tensor({1, s.A, s.T}), dq = device.tensor({s.T, Q}, dtype),
                   dk = device.tensor({s.T, KV}, dtype), dv = device.tensor({s.T, KV}, dtype);
      device->attention().attention_forward(y, lse, tq, tk, tv, s, device.stream());
      device->attention().attention_backward(dq, dk, dv, device.tensor({1, s.A, s.T}), device.tensor({s.T, Q}, dy, dtype), tq, tk, tv, y,
                                             lse, s, device.stream());
      expect_as_exact_as_plain_code("y", device.values(y), plain.y, exact.y, dtype);
      const auto gradients = [&]<class Scalar>(Scalar) {
        return reference::attention_backward<Scalar>(converted<Scalar>(dy), converted<Scalar>(q), converted<Scalar>(k),
                                                     converted<Scalar>(v),
                                                     {converted<Scalar>(device.values(y)), converted<Scalar>(device.values(lse))}, s);
      };
      const auto exact_gradients = gradients(double());
      const auto plain_gradients = gradients(float());
      expect_as_exact_as_plain_code("dq", device.values(dq), plain_gradients.dq, exact_gradients.dq, dtype);
      expect_as_exact_as_plain_code("dk", device.values(dk), plain_gradients.dk, exact_gradients.dk, dtype);
      expect_as_exact_as_plain_code("dv", device.values(dv), plain_gradients.dv, exact_gradients.dv, dtype);
    });
  }
}

// Sums of small integers are exact in any order: every bit of a linear layer in fp16 and of its bf16 gradients is known.
TEST(EveryInstructionSet, LinearLayersRoundOnceAndBf16GradientsByTheHalfWordOfTheirElement) {
  const int64_t N = 133, I = 29, O = 61;
  const RandomStream rounding(7, RandomPurpose::Rounding, "weight", 3);
  const auto integers = [](int64_t count, const char* name) {
    std::vector<float> values = random_values(count, name, 3);
    for (float& value : values) value = std::round(value);
    return values;
  };
  const auto x = integers(N * I, "x"), weight = integers(O * I, "weight"), bias = integers(O, "bias"), dy = integers(N * O, "dy");
  const std::vector<float> old_bias(O, 1000);  // bf16 holds 1000, and then every fourth integer
  std::vector<float> weight_sums(O * I), bias_sums = old_bias;
  reference::linear_backward_weight(weight_sums, bias_sums, dy, x, N, I, O);
  for (int64_t e = 0; e < O * I; e++) weight_sums[e] = rounded_stochastically(weight_sums[e], rounding.half_word(e));
  for (int64_t e = 0; e < O; e++) bias_sums[e] = rounded_stochastically(bias_sums[e], rounding.half_word(O * I + e));
  on_every_instruction_set([&] {
    TestDevice device = TestDevice::cpu();
    const Tensor tx = device.tensor({N, I}, x, DType::f16), y = device.tensor({N, O}, DType::f16);
    const Tensor dweight = device.tensor({O, I}, DType::bf16), dbias = device.tensor({O}, old_bias, DType::bf16);
    device->matmul().linear_forward(y, tx, device.tensor({O, I}, weight, DType::f16), device.tensor({O}, bias, DType::f16),
                                    device.stream());
    device->matmul().linear_backward_weight(dweight, dbias, device.tensor({N, O}, dy, DType::f16), tx, GradientWrite::Add, rounding,
                                            device.stream());
    EXPECT_EQ(device.values(y), op_test::rounded_to(DType::f16, reference::linear_forward(x, weight, bias, N, I, O)));
    EXPECT_EQ(device.values(dweight), weight_sums);
    EXPECT_EQ(device.values(dbias), bias_sums);
  });
}

TEST(EveryInstructionSet, CrossEntropyIsAsExactAsPlainCode) {
  const int64_t R = 3, V = 1001;
  const std::vector<int32_t> targets = {0, 1000, 500};
  const StepControl control{.loss_scale = 2};
  for (const DType dtype : op_test::compute_types) {
    const auto logits = op_test::rounded_to(dtype, random_values(R * V, "logits", 3));
    auto exact = converted<double>(logits);
    auto plain = logits;
    const auto exact_losses = reference::cross_entropy<double>(exact, targets, V, 2);
    const auto plain_losses = reference::cross_entropy<float>(plain, targets, V, 2);
    on_every_instruction_set([&] {
      TestDevice device = TestDevice::cpu();
      const Tensor losses = device.tensor({R}), gradient = device.tensor({R, V}, logits, dtype);
      device->loss().cross_entropy(losses, gradient, device.tensor({R}, targets), 1, &control, device.stream());
      expect_as_exact_as_plain_code("losses", device.values(losses), plain_losses, exact_losses);
      expect_as_exact_as_plain_code("gradient", device.values(gradient), plain, exact, dtype);
      const Tensor wide = device.tensor({R, V}, logits);
      device->loss().cross_entropy(losses, wide, device.tensor({R}, targets), 1, &control, device.stream());
      EXPECT_EQ(device.values(gradient), op_test::rounded_to(dtype, device.values(wide))) << "each element is rounded once";
    });
  }
}

TEST(EveryInstructionSet, NormsAreAsExactAsPlainCode) {
  for (const op_test::NormCase& c : op_test::norm_cases()) {
    SCOPED_TRACE(testing::Message() << (c.kind == op_test::NormKind::LayerNorm ? "layer norm " : "RMS norm ") << name_of(c.dtype));
    on_every_instruction_set([&] {
      TestDevice device = TestDevice::cpu();
      op_test::expect_norms_as_exact_as_plain_code(device, c, {9, 1001});
      op_test::expect_norms_rounded_once(device, c, {9, 1001});
    });
  }
}

TEST(EveryInstructionSet, PhiloxWordsAreThoseOfTheRandomStream) {
  const RandomStream stream(3, RandomPurpose::Rounding, "weight", (uint64_t{1} << 32) + 5);
  on_every_instruction_set([&] {
    for (const uint64_t begin : {uint64_t{0}, uint64_t{7}, (uint64_t{1} << 32) - 9, ~uint64_t{0} - 300}) {
      for (const int64_t count : {0, 1, 15, 16, 17, 100, 257}) {
        std::vector<uint32_t> even(2 * count + 1, 1), odd(2 * count + 1, 1);
        HWY_DYNAMIC_DISPATCH(philox_words_of)(stream, begin, count, even.data(), odd.data());
        for (int64_t i = 0; i < count; i++) {
          const auto words = stream.words(begin + static_cast<uint64_t>(i));
          ASSERT_EQ((std::array{even[2 * i], odd[2 * i], even[2 * i + 1], odd[2 * i + 1]}), words) << begin << " + " << i;
        }
        EXPECT_TRUE(even.back() == 1 && odd.back() == 1) << "nothing is written behind the last word";
      }
    }
  });
}

TEST(EveryInstructionSet, UpdatesAreAsExactAsPlainCode) {
  using namespace op_test;
  const int64_t n = 1301;
  for (const UpdateRule rule : update_rules) {
    for (const UpdateTypes types : {UpdateTypes{}, UpdateTypes{DType::bf16, DType::bf16, DType::bf16}}) {
      SCOPED_TRACE(testing::Message() << "rule " << static_cast<int>(rule) << ' ' << name_of(types.master));
      const auto plain = plain_update<float>(rule, n, types, two_segments(n), 3);
      const auto exact = plain_update<double>(rule, n, types, two_segments(n), 3);
      on_every_instruction_set([&] {
        TestDevice device = TestDevice::cpu();
        UpdateShard shard = make_shard(device, rule, n, types, DType::f16);
        run_update(device, rule, shard, types, two_segments(n), 3);
        const auto ours = state_of(device, shard);
        expect_state_as_exact_as_plain_code(ours, plain, exact, types);
        EXPECT_EQ(device.values(shard.weight), rounded_to(DType::f16, ours.master));
      });
    }
  }
}

TEST(EveryInstructionSet, WeightsWrittenPastTheCachesAreTheMastersRoundedToNearestAndNothingElse) {
  using namespace op_test;
  const int64_t n = (int64_t{1} << 20) + 77;
  const std::vector<UpdateSegment> segments = {{0, n / 3, 0.1f, {}, 0}, {n / 3 + 5, n, 0.0f, {}, 0}};
  for (const DType dtype : compute_types) {
    on_every_instruction_set([&] {
      for (const int64_t offset : {0, 1}) {  // in elements: at a whole vector, and not
        SCOPED_TRACE(testing::Message() << name_of(dtype) << ", offset " << offset);
        TestDevice device = TestDevice::cpu();
        UpdateShard shard = make_shard(device, UpdateRule::Sgd, n, {});
        const Tensor wide = device.tensor({n + 2}, std::vector<float>(n + 2, 7), dtype);
        shard.weight = wide.flat_range(offset, offset + n);
        run_update(device, UpdateRule::Sgd, shard, {}, segments, 1);
        std::vector<float> expected(n + 2, 7);
        const auto master = rounded_to(dtype, device.values(shard.master));
        for (const UpdateSegment& segment : segments) {
          std::copy(master.begin() + segment.begin, master.begin() + segment.end, expected.begin() + offset + segment.begin);
        }
        EXPECT_EQ(device.values(wide), expected);
      }
    });
  }
}

TEST(EveryInstructionSet, EveryBf16NumberIsRoundedAndEveryNanStaysOne) {
  constexpr int64_t n = 65536;
  on_every_instruction_set([] {
    TestDevice device = TestDevice::cpu();
    const Tensor all = device.tensor({n}, DType::bf16), other = device.tensor({n}, DType::bf16), out = device.tensor({n}, DType::bf16);
    for (int64_t i = 0; i < n; i++) all.as<bf16_t>()[i].bits = static_cast<uint16_t>(i);
    for (const uint16_t bits : {0x0000, 0x3F80, 0x3B81, 0xC2FF, 0x7F80, 0xFF80, 0x7F81, 0x7FFF, 0xFFFF}) {
      for (int64_t i = 0; i < n; i++) other.as<bf16_t>()[i].bits = bits;
      device->elementwise().add(out, all, other, device.stream());
      int64_t wrong = 0;
      for (int64_t i = 0; i < n; i++) {
        const float exact = static_cast<float>(all.as<bf16_t>()[i]) + static_cast<float>(other.as<bf16_t>()[i]);
        const bf16_t ours = out.as<bf16_t>()[i];
        wrong += std::isnan(exact) ? !std::isnan(static_cast<float>(ours)) : ours.bits != bf16_t(exact).bits;
      }
      EXPECT_EQ(wrong, 0) << "with " << bits;
    }
    device->elementwise().gelu_forward(out, all, device.stream());
    for (int64_t i = 0; i < n; i++) {
      const float x = static_cast<float>(all.as<bf16_t>()[i]), y = static_cast<float>(out.as<bf16_t>()[i]);
      ASSERT_EQ(std::isnan(x), std::isnan(y)) << i;
    }
  });
}

TEST(EveryInstructionSet, TheGradientNormHasTheSameBits) {
  const int64_t n = 5000;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<FixedSum> sums;
    on_every_instruction_set([&] {
      TestDevice device = TestDevice::cpu();
      auto* control = device.placed(StepControl{.loss_scale = 2});
      auto* partial = device.placed(StepPartial{});
      device->update().gradient_norm(partial, device.tensor({n}, random_values(n, "gradient"), dtype), control, device.stream());
      sums.push_back(partial->norm_squares);
    });
    ASSERT_FALSE(sums.empty());
    for (const FixedSum sum : sums) EXPECT_TRUE(sum > 0 && sum == sums.front());
  }
}

TEST(EveryInstructionSet, ElementwiseOpsAreAsExactAsPlainCode) {
  on_every_instruction_set([] {
    TestDevice device = TestDevice::cpu();
    for (const DType dtype : op_test::compute_types) {
      for (const DType to : op_test::compute_types) op_test::check_cast(device, 333, dtype, to, 1 / 3.0f);
      op_test::check_add(device, 333, dtype);
      op_test::check_gelu(device, 333, dtype);
      op_test::check_swiglu(device, 3, 77, dtype);
      op_test::check_rotary(device, 2, 5, 3, 40, dtype);
      op_test::check_embedding_forward(device, {3, 5, 77, 11, 6}, dtype);
      for (const DType gradient : {DType::f32, DType::bf16}) {
        op_test::check_ordered_sum(device, 3, 333, gradient);
      }
      for (const op_test::GradientCase& gradient : op_test::gradient_cases)
        op_test::check_embedding_backward(device, {3, 5, 77, 11, 6}, dtype, gradient);
    }
  });
}

}  // namespace
}  // namespace tessera
#endif
