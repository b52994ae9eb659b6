#include "kernels/update_ops.h"

#include <cstring>
#include <numeric>

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference_elementwise.h"

namespace tessera {
namespace {

using namespace op_test;

/// `count` values of a plain struct in device memory.
template <class T>
T* in_device(TestDevice& device, int64_t count = 1) {
  return static_cast<T*>(device.tensor({count * static_cast<int64_t>(sizeof(T))}, DType::u8).data);
}

constexpr AdamWHyper hyper = {.learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f};

template <class Scalar>
struct AdamWState {
  std::vector<Scalar> weight, m, v;
  bool operator==(const AdamWState&) const = default;
};

/// Several steps on the device, with other gradients and another clip scale in each.
AdamWState<float> run_adamw(TestDevice& device, int64_t n, const std::vector<UpdateSegment>& segments, int steps) {
  const Tensor weight = device.tensor({n}, random_values(n, "weight")), m = device.tensor({n}), v = device.tensor({n});
  auto* control = in_device<StepControl>(device);
  *control = {};
  for (int t = 1; t <= steps; t++) {
    control->applied_steps = t;
    control->clip_scale = 1.0f / static_cast<float>(t);
    device->update().adamw(weight, m, v, device.tensor({n}, random_values(n, "gradient" + std::to_string(t))), segments, hyper, control,
                           device.stream());
  }
  return {device.values(weight), device.values(m), device.values(v)};
}

template <class Scalar>
AdamWState<Scalar> plain_adamw(int64_t n, const std::vector<UpdateSegment>& segments, int steps) {
  AdamWState<Scalar> state{converted<Scalar>(random_values(n, "weight")), std::vector<Scalar>(n), std::vector<Scalar>(n)};
  for (int t = 1; t <= steps; t++) {
    reference::adamw<Scalar>(state.weight, state.m, state.v, converted<Scalar>(random_values(n, "gradient" + std::to_string(t))), segments,
                             hyper, 1.0f / static_cast<float>(t), t);
  }
  return state;
}

TEST(AdamW, IsAsExactAsPlainCodeOverSeveralSteps) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : {int64_t{1}, int64_t{17}, int64_t{1023}, int64_t{50021}}) {
    SCOPED_TRACE(n);
    const std::vector<UpdateSegment> segments = {{0, n / 3, 0.1f}, {n / 3, n, 0.0f}};
    const AdamWState<float> ours = run_adamw(device, n, segments, 5), plain = plain_adamw<float>(n, segments, 5);
    const AdamWState<double> exact = plain_adamw<double>(n, segments, 5);
    expect_as_exact_as_plain_code("weight", ours.weight, plain.weight, exact.weight);
    expect_as_exact_as_plain_code("m", ours.m, plain.m, exact.m);
    expect_as_exact_as_plain_code("v", ours.v, plain.v, exact.v);
  }
}

TEST(AdamW, ItsUpdatesAreRightAndNotOnlyItsWeights) {
  // The weights are a thousand times larger than what one step changes: judged alone, the change shows errors that they hide.
  const int64_t n = 1000;
  const std::vector<UpdateSegment> segments = {{0, n, 0.1f}};
  TestDevice device = TestDevice::cpu();
  const AdamWState<float> ours = run_adamw(device, n, segments, 3);
  const AdamWState<double> exact = plain_adamw<double>(n, segments, 3);
  const std::vector<float> before = random_values(n, "weight");
  for (int64_t i = 0; i < n; i++) {
    const double rounding = 4 * std::numeric_limits<float>::epsilon() * std::abs(before[i]);
    EXPECT_NEAR(static_cast<double>(ours.weight[i]) - before[i], exact.weight[i] - before[i], rounding + 1e-8) << i;
  }
}

TEST(AdamW, LeavesElementsOutsideAllSegmentsAlone) {
  const int64_t n = 40000;
  const std::vector<UpdateSegment> segments = {{3, 100, 0.1f}, {100, 20005, 0.0f}, {20100, 39990, 0.1f}};
  TestDevice device = TestDevice::cpu();
  const AdamWState<float> ours = run_adamw(device, n, segments, 2), everything = run_adamw(device, n, {{0, n, 0.1f}}, 2);
  const std::vector<float> before = random_values(n, "weight");
  for (const int64_t i : {0, 1, 2, 20005, 20050, 20099, 39990, 39999}) {
    EXPECT_EQ(ours.weight[i], before[i]) << i;
    EXPECT_EQ(ours.m[i], 0) << i;
    EXPECT_EQ(ours.v[i], 0) << i;
  }
  for (const int64_t i : {3, 99, 20100, 39989}) EXPECT_EQ(ours.weight[i], everything.weight[i]) << i;
  for (const int64_t i : {100, 20004}) EXPECT_NE(ours.weight[i], everything.weight[i]) << "no decay at " << i;
}

TEST(AdamW, BitsDependNeitherOnThreadsNorOnTheRunNorOnTheShard) {
  const int64_t n = 100003, cut = 40 * 256;
  const std::vector<UpdateSegment> whole = {{0, n, 0.1f}};
  TestDevice one = TestDevice::cpu(1), three = TestDevice::cpu(3);
  const AdamWState<float> expected = run_adamw(one, n, whole, 2);
  EXPECT_TRUE(run_adamw(one, n, whole, 2) == expected);
  EXPECT_TRUE(run_adamw(three, n, whole, 2) == expected);
  EXPECT_TRUE(run_adamw(three, n, {{0, cut + 1, 0.1f}, {cut + 1, n, 0.1f}}, 2) == expected);
}

TEST(AdamW, ASkippedStepLeavesEveryBitAlone) {
  const int64_t n = 1000;
  TestDevice device = TestDevice::cpu();
  const Tensor weight = device.tensor({n}, random_values(n, "weight")), m = device.tensor({n}, random_values(n, "m"));
  const Tensor v = device.tensor({n}, std::vector<float>(n, 0.25f)), gradient = device.tensor({n}, std::vector<float>(n, NAN));
  auto* control = in_device<StepControl>(device);
  *control = {.applied_steps = 3, .skip = 1};
  const UpdateSegment segment{0, n, 0.1f};
  device->update().adamw(weight, m, v, gradient, {&segment, 1}, hyper, control, device.stream());
  EXPECT_EQ(device.values(weight), random_values(n, "weight"));
  EXPECT_EQ(device.values(m), random_values(n, "m"));
  EXPECT_EQ(device.values(v), std::vector<float>(n, 0.25f));
}

/// The partial after one call of gradient_norm for each of `pieces`.
StepPartial norm_of(TestDevice& device, const std::vector<std::vector<float>>& pieces) {
  auto* partial = in_device<StepPartial>(device);
  device->update().begin_step(partial, 0, device.stream());
  for (const auto& piece : pieces) {
    device->update().gradient_norm(partial, device.tensor({static_cast<int64_t>(piece.size())}, piece), device.stream());
  }
  return *partial;
}

double value_of(FixedSum sum) { return std::ldexp(static_cast<double>(sum), -fixed_sum_fraction_bits); }

TEST(GradientNorm, IsTheSumOfSquares) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : {1, 255, 256, 257, 1023, 300001}) {
    for (const float scale : {1e-4f, 1.0f, 1e4f}) {
      const std::vector<float> gradient = random_values(n, "gradient", scale);
      long double exact = 0;
      for (const float g : gradient) exact += static_cast<long double>(g) * g;
      // Each block's sum is right to fp64 and to half a unit of 2^-80.
      const double bound = 256 * std::numeric_limits<double>::epsilon() * static_cast<double>(exact) + std::ldexp(n / 256.0 + 1, -81);
      const StepPartial ours = norm_of(device, {gradient});
      EXPECT_NEAR(value_of(ours.norm_squares), static_cast<double>(exact), bound) << n << " elements of size " << scale;
      EXPECT_EQ(ours.nonfinite, 0);
    }
  }
}

TEST(GradientNorm, DependsNeitherOnThreadsNorOnHowTheGradientIsCutNorOnTheOrder) {
  const int64_t n = 200 * 256 + 77;
  const std::vector<float> gradient = random_values(n, "gradient", 1e-3f);
  TestDevice one = TestDevice::cpu(1), three = TestDevice::cpu(3);
  const FixedSum expected = norm_of(one, {gradient}).norm_squares;
  EXPECT_GT(expected, 0);
  EXPECT_TRUE(norm_of(one, {gradient}).norm_squares == expected);
  EXPECT_TRUE(norm_of(three, {gradient}).norm_squares == expected);
  for (const int64_t blocks : {1, 7, 150}) {
    std::vector<std::vector<float>> pieces;
    for (int64_t begin = 0; begin < n; begin += blocks * 256) {
      pieces.emplace_back(gradient.begin() + begin, gradient.begin() + std::min(n, begin + blocks * 256));
    }
    std::reverse(pieces.begin(), pieces.end());
    EXPECT_TRUE(norm_of(three, pieces).norm_squares == expected) << blocks;
  }
}

TEST(GradientNorm, RoundsBlocksToTheNearestEvenUnit) {
  TestDevice device = TestDevice::cpu();
  const auto units = [&](std::vector<float> gradient) { return static_cast<int64_t>(norm_of(device, {gradient}).norm_squares); };
  const auto quarters = [](int count) { return std::vector<float>(count, std::ldexp(1.0f, -41)); };  // each square is a quarter of a unit
  EXPECT_EQ(units({std::ldexp(1.0f, -40)}), 1);
  EXPECT_EQ(units(quarters(1)), 0);
  EXPECT_EQ(units(quarters(2)), 0) << "a half goes to even";
  EXPECT_EQ(units(quarters(3)), 1);
  EXPECT_EQ(units(quarters(5)), 1);
  EXPECT_EQ(units(quarters(6)), 2) << "three halves go to even";
  EXPECT_EQ(units(quarters(7)), 2);
  EXPECT_EQ(units(quarters(10)), 2) << "five halves go to even";
  EXPECT_EQ(units({1e-30f}), 0);
  EXPECT_EQ(units({std::ldexp(1.0f, -149)}), 0) << "the smallest number there is";
  EXPECT_TRUE(norm_of(device, {{1.0f}}).norm_squares == FixedSum{1} << 80);
  EXPECT_TRUE(norm_of(device, {{524288.0f, std::ldexp(1.0f, -7)}}).norm_squares == (FixedSum{1} << 118) + (FixedSum{1} << 66));
}

TEST(GradientNorm, WhatIsNotFiniteOrTooLargeSetsTheFlag) {
  TestDevice device = TestDevice::cpu();
  for (const int64_t n : {1, 300, 100000}) {
    for (const float bad : {NAN, INFINITY, -INFINITY, 3e38f, -1048576.0f}) {  // the last one's square is 2^40
      for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        std::vector<float> gradient = random_values(n, "gradient");
        gradient[at] = bad;
        EXPECT_EQ(norm_of(device, {gradient}).nonfinite, 1) << bad << " at " << at << " of " << n;
      }
    }
  }
  EXPECT_EQ(norm_of(device, {{1048575.0f}}).nonfinite, 0);
  EXPECT_EQ(norm_of(device, {{NAN}, {1.0f}}).nonfinite, 1) << "the flag stays";
}

TEST(GradientNorm, ATotalThatSaturatesSetsTheFlag) {
  TestDevice device = TestDevice::cpu();
  const auto large_blocks = [](int64_t count) {
    std::vector<float> gradient(count * 256);
    for (int64_t block = 0; block < count; block++) gradient[block * 256] = 1e6f;  // a square of 2^39.86; 140 of them are below 2^47
    return gradient;
  };
  EXPECT_EQ(norm_of(device, {large_blocks(140)}).nonfinite, 0);
  EXPECT_EQ(norm_of(device, {large_blocks(141)}).nonfinite, 1);
  EXPECT_EQ(norm_of(device, {large_blocks(100), large_blocks(41)}).nonfinite, 1);
  EXPECT_GT(value_of(norm_of(device, {large_blocks(200)}).norm_squares), 1.4e14) << "it stays at the largest number";
}

TEST(AddLoss, AddsInOrderInDoublePrecision) {
  TestDevice device = TestDevice::cpu();
  auto* partial = in_device<StepPartial>(device);
  const std::vector<float> losses = random_values(1001, "losses");
  device->update().begin_step(partial, 0, device.stream());
  device->update().add_loss(partial, device.tensor({1001}, losses), device.stream());
  device->update().add_loss(partial, device.tensor({1001}, losses), device.stream());
  double expected = 0;
  for (int repetition = 0; repetition < 2; repetition++) {
    for (const float loss : losses) expected += loss;
  }
  EXPECT_EQ(partial->loss_sum, expected);
  EXPECT_EQ(partial->nonfinite, 0);
  device->update().add_loss(partial, device.tensor({3}, std::vector<float>{1, INFINITY, 1}), device.stream());
  EXPECT_EQ(partial->nonfinite, 1);
}

TEST(StepControl, BeginningAStepForgetsTheLastOne) {
  TestDevice device = TestDevice::cpu();
  auto* partial = in_device<StepPartial>(device);
  *partial = {.norm_squares = 5, .loss_sum = 3, .nonfinite = 1, .stop_vote = 0};
  device->update().begin_step(partial, 1, device.stream());
  EXPECT_TRUE(partial->norm_squares == 0);
  EXPECT_EQ(partial->loss_sum, 0);
  EXPECT_EQ(partial->nonfinite, 0);
  EXPECT_EQ(partial->stop_vote, 1);
}

/// The control after agree_step of these partials on `before`.
StepControl agreed(const std::vector<StepPartial>& partials, float clip, StepControl before = {}) {
  TestDevice device = TestDevice::cpu(1);
  auto* control = in_device<StepControl>(device);
  auto* on_device = in_device<StepPartial>(device, static_cast<int64_t>(partials.size()));
  *control = before;
  std::copy(partials.begin(), partials.end(), on_device);
  device->update().agree_step(control, on_device, static_cast<int>(partials.size()), clip, device.stream());
  return *control;
}

constexpr FixedSum one = FixedSum{1} << fixed_sum_fraction_bits;

TEST(StepControl, RanksAgreeOnLossNormAndVotes) {
  const StepControl control = agreed({{9 * one, 0.1, 0, 1}, {16 * one, 0.2, 0, 0}, {0, 0.3, 0, 1}}, 0, {.step = 7, .applied_steps = 5});
  EXPECT_EQ(control.step, 8);
  EXPECT_EQ(control.applied_steps, 6);
  EXPECT_EQ(control.skipped_in_a_row, 0);
  EXPECT_EQ(control.loss_sum, (0.1 + 0.2) + 0.3) << "in rank order";
  EXPECT_EQ(control.gradient_norm, 5);
  EXPECT_EQ(control.clip_scale, 1) << "clip 0 never clips";
  EXPECT_EQ(control.loss_scale, 1);
  EXPECT_EQ(control.skip, 0);
  EXPECT_EQ(control.stop_votes, 2);
}

TEST(StepControl, ClipsOnlyNormsAboveTheLimit) {
  EXPECT_EQ(agreed({{25 * one, 0, 0, 0}}, 2).clip_scale, 0.4f);
  EXPECT_EQ(agreed({{25 * one, 0, 0, 0}}, 5).clip_scale, 1);
  EXPECT_EQ(agreed({{25 * one, 0, 0, 0}}, 6).clip_scale, 1);
  EXPECT_EQ(agreed({{0, 0, 0, 0}}, 1).clip_scale, 1);
}

TEST(StepControl, OneRankThatIsNotFiniteSkipsTheStepOnAll) {
  const StepControl before{.step = 4, .applied_steps = 3, .skipped_in_a_row = 1, .skip = 1};
  const StepPartial good{one, 1, 0, 0}, bad{one, 1, 1, 0}, lost{one, NAN, 0, 0};
  const StepPartial largest{(FixedSum{1} << 126) - 1 + (FixedSum{1} << 126), 1, 0, 0};
  for (const auto& partials : {std::vector{good, bad}, std::vector{bad, good}, std::vector{good, lost}, std::vector{largest, good}}) {
    const StepControl control = agreed(partials, 1, before);
    EXPECT_EQ(control.skip, 1);
    EXPECT_EQ(control.step, 5);
    EXPECT_EQ(control.applied_steps, 3);
    EXPECT_EQ(control.skipped_in_a_row, 2);
  }
  const StepControl recovered = agreed({good, good}, 1, before);
  EXPECT_EQ(recovered.skip, 0);
  EXPECT_EQ(recovered.applied_steps, 4);
  EXPECT_EQ(recovered.skipped_in_a_row, 0);
}

void every_op(TestDevice& device) {
  const int64_t n = 1000;
  const Tensor x = device.tensor({n});
  const std::vector<UpdateSegment> segments = {{0, 100, 0.1f}, {300, n, 0.0f}};
  UpdateOps& ops = device->update();
  auto* control = in_device<StepControl>(device);
  auto* partial = in_device<StepPartial>(device);
  ops.begin_step(partial, 0, device.stream());
  ops.gradient_norm(partial, x, device.stream());
  ops.add_loss(partial, x, device.stream());
  ops.agree_step(control, partial, 1, 1, device.stream());
  ops.adamw(x, device.tensor({n}), device.tensor({n}), device.tensor({n}), segments, hyper, control, device.stream());
}

TEST(UpdateOps, TheNullDeviceRecordsTheSameOps) { expect_same_trace_on_null(5, every_op); }

TEST(UpdateOps, AdamWIsPricedByWhatItUpdates) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  every_op(device);
  EXPECT_EQ(trace.back().info.read_bytes, 4 * 800 * 4);
  EXPECT_EQ(trace.back().info.write_bytes, 3 * 800 * 4);
}

TEST(UpdateOps, AnEmptyShardIsNoWork) {
  TestDevice device = TestDevice::cpu();
  const Tensor nothing(nullptr, DType::f32, {0});
  auto* control = in_device<StepControl>(device);
  *control = {.applied_steps = 1};
  device->update().adamw(nothing, nothing, nothing, nothing, {}, hyper, control, device.stream());
  auto* partial = in_device<StepPartial>(device);
  device->update().gradient_norm(partial, nothing, device.stream());
  EXPECT_TRUE(partial->norm_squares == 0);
}

TEST(UpdateOps, WrongShapesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor x = device.tensor({64}), other = device.tensor({63}), integers = device.tensor({64}, DType::i32);
  auto* control = in_device<StepControl>(device);
  auto* partial = in_device<StepPartial>(device);
  Stream& stream = device.stream();
  const auto adamw = [&](Tensor m, std::vector<UpdateSegment> segments) {
    device->update().adamw(x, m, x, x, segments, hyper, control, stream);
  };
  EXPECT_THROW(adamw(other, {}), InternalError);
  EXPECT_THROW(adamw({}, {}), InternalError);
  EXPECT_THROW(adamw(x, {{0, 65, 0}}), InternalError);
  EXPECT_THROW(adamw(x, {{0, 40, 0}, {39, 64, 0}}), InternalError);
  EXPECT_THROW(adamw(x, {{-1, 40, 0}}), InternalError);
  EXPECT_THROW(device->update().gradient_norm(partial, integers, stream), InternalError);
  EXPECT_THROW(device->update().add_loss(partial, integers, stream), InternalError);
  EXPECT_THROW(device->update().agree_step(control, partial, 0, 1, stream), InternalError);
}

}  // namespace
}  // namespace tessera
