#include "kernels/update_ops.h"

#include <bit>

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference_elementwise.h"
#include "tests/update_runs.h"

namespace tessera {
namespace {

using namespace op_test;

std::vector<UpdateTypes> every_combination_of_types() {
  std::vector<UpdateTypes> all;
  for (const DType master : {DType::f32, DType::bf16}) {
    for (const DType moment : {DType::f32, DType::bf16}) {
      for (const DType gradient : {DType::f32, DType::bf16}) all.push_back({master, moment, gradient});
    }
  }
  return all;
}

TEST(Update, IsAsExactAsPlainCodeOverSeveralSteps) {
  for (const UpdateRule rule : update_rules) {
    TestDevice device = TestDevice::under_test();
    for (const int64_t n : {int64_t{1}, int64_t{17}, int64_t{1023}, emulated_or<int64_t>(5021, 50021)}) {
      SCOPED_TRACE(testing::Message() << "rule " << static_cast<int>(rule) << ", " << n << " elements");
      UpdateShard shard = make_shard(device, rule, n, {});
      run_update(device, rule, shard, {}, two_segments(n), 5);
      expect_state_as_exact_as_plain_code(state_of(device, shard), plain_update<float>(rule, n, {}, two_segments(n), 5),
                                          plain_update<double>(rule, n, {}, two_segments(n), 5), {});
    }
  }
}

TEST(Update, IsAsExactAsPlainCodeInEveryCombinationOfTypes) {
  const int64_t n = 1300;
  for (const UpdateRule rule : update_rules) {
    TestDevice device = TestDevice::under_test();
    for (const UpdateTypes types : every_combination_of_types()) {
      SCOPED_TRACE(testing::Message() << "rule " << static_cast<int>(rule) << ", master " << name_of(types.master) << ", moment "
                                      << name_of(types.moment) << ", gradient " << name_of(types.gradient));
      const auto plain = plain_update<float>(rule, n, types, two_segments(n), 3);
      const auto exact = plain_update<double>(rule, n, types, two_segments(n), 3);
      for (const DType copy : {DType::u8, DType::f32, DType::bf16, DType::f16}) {
        UpdateShard shard = make_shard(device, rule, n, types, copy);
        run_update(device, rule, shard, types, two_segments(n), 3);
        const auto ours = state_of(device, shard);
        expect_state_as_exact_as_plain_code(ours, plain, exact, types);
        if (!shard.weight.empty()) {
          EXPECT_EQ(device.values(shard.weight), rounded_to(copy, ours.master)) << "the weight is the master, rounded to nearest";
        }
      }
    }
  }
}

TEST(Update, ItsStepsAreRightAndNotOnlyItsWeights) {
  // The weights are a thousand times larger than what one step changes: judged alone, the change shows errors that they hide.
  const int64_t n = 1000;
  const std::vector<UpdateSegment> segments = {{0, n, 0.1f, {}, 0}};
  const std::vector<float> before = random_values(n, "weight");
  for (const UpdateRule rule : update_rules) {
    TestDevice device = TestDevice::under_test();
    UpdateShard shard = make_shard(device, rule, n, {});
    run_update(device, rule, shard, {}, segments, 3);
    const auto ours = device.values(shard.master);
    const auto exact = plain_update<double>(rule, n, {}, segments, 3);
    for (int64_t i = 0; i < n; i++) {
      const double rounding = 4 * std::numeric_limits<float>::epsilon() * std::abs(before[i]);
      EXPECT_NEAR(static_cast<double>(ours[i]) - before[i], exact.master[i] - before[i], rounding + 1e-8)
          << "rule " << static_cast<int>(rule) << ", element " << i;
    }
  }
}

TEST(Update, LeavesElementsOutsideAllSegmentsAlone) {
  const int64_t n = 40000;
  const std::vector<UpdateSegment> all = {{0, n, 0.1f, rounding_of("a"), 0}};
  const std::vector<UpdateSegment> some = {
      {3, 100, 0.1f, rounding_of("a"), 3}, {100, 20005, 0.0f, rounding_of("a"), 100}, {20100, 39990, 0.1f, rounding_of("a"), 20100}};
  for (const UpdateTypes types : {UpdateTypes{}, UpdateTypes{DType::bf16, DType::bf16, DType::bf16}}) {
    TestDevice device = TestDevice::under_test();
    UpdateShard part = make_shard(device, UpdateRule::AdamW, n, types, DType::f16), whole = make_shard(device, UpdateRule::AdamW, n, types);
    const std::vector<float> before = device.values(part.master);
    run_update(device, UpdateRule::AdamW, part, types, some, 2, {.learning_rate = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f});
    run_update(device, UpdateRule::AdamW, whole, types, all, 2, {.learning_rate = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f});
    const auto ours = state_of(device, part), everything = state_of(device, whole);
    const std::vector<float> weight = device.values(part.weight);
    for (const int64_t i : {0, 1, 2, 20005, 20050, 20099, 39990, 39999}) {
      EXPECT_EQ(ours.master[i], before[i]) << i;
      EXPECT_EQ(ours.first[i], 0) << i;
      EXPECT_EQ(ours.second[i], 0) << i;
      EXPECT_EQ(weight[i], 0) << i;
    }
    for (const int64_t i : {3, 99, 20100, 39989}) EXPECT_EQ(ours.master[i], everything.master[i]) << i;
    int64_t different = 0;
    for (int64_t i = 100; i < 20005; i++) different += ours.master[i] != everything.master[i];
    EXPECT_GT(different, 1000) << "no decay there";
  }
}

TEST(Update, BitsDependNeitherOnThreadsNorOnTheRunNorOnTheShard) {
  const int64_t n = emulated_or(12003, 100003), cut = 40 * 256, lengths = emulated_or(100, 400);
  for (const UpdateTypes types : {UpdateTypes{}, UpdateTypes{DType::bf16, DType::bf16, DType::bf16}}) {
    const auto result = [&](int threads, const std::vector<UpdateSegment>& segments) {
      TestDevice device = TestDevice::under_test(threads);
      UpdateShard shard = make_shard(device, UpdateRule::AdamW, n, types);
      run_update(device, UpdateRule::AdamW, shard, types, segments, 2);
      return state_of(device, shard);
    };
    const RandomStream rounding = rounding_of("a");
    const std::vector<UpdateSegment> whole = {{0, n, 0.1f, rounding, 11}};
    const auto expected = result(1, whole);
    EXPECT_TRUE(result(1, whole) == expected);
    EXPECT_TRUE(result(3, whole) == expected);
    EXPECT_TRUE(result(3, {{0, cut + 1, 0.1f, rounding, 11}, {cut + 1, n, 0.1f, rounding, 11 + cut + 1}}) == expected);
    std::vector<UpdateSegment> many;  // of every length from 0 on and then the rest, which lies at all places
    for (int64_t begin = 0, length = 0; begin < n; begin = many.back().end, length++) {
      many.push_back({begin, length < lengths ? begin + length : n, 0.1f, rounding, 11 + begin});
    }
    EXPECT_TRUE(result(2, many) == expected);
  }
}

TEST(Update, BitsAreThoseOfTheCpuWhereverTheTensorsLie) {
  const int64_t n = 3001;
  for (const UpdateRule rule : update_rules) {
    TestDevice cpu = TestDevice::cpu(1), device = TestDevice::under_test();
    for (const UpdateTypes types :
         {UpdateTypes{}, UpdateTypes{DType::bf16, DType::f32, DType::bf16}, UpdateTypes{DType::f32, DType::bf16}}) {
      SCOPED_TRACE(testing::Message() << "rule " << static_cast<int>(rule) << ", master " << name_of(types.master));
      UpdateShard on_cpu = make_shard(cpu, rule, n, types), whole = make_shard(device, rule, n + 3, types);
      const auto moved = [](const Tensor& tensor) { return tensor.empty() ? tensor : tensor.flat_range(3, tensor.elements()); };
      UpdateShard on_device{
          .master = moved(whole.master), .weight = {}, .gradient = {}, .first = moved(whole.first), .second = moved(whole.second)};
      device.fill(on_device.master, random_values(n, "weight"));
      run_update(cpu, rule, on_cpu, types, two_segments(n), 3);
      run_update(device, rule, on_device, types, two_segments(n), 3);
      EXPECT_TRUE(state_of(device, on_device) == state_of(cpu, on_cpu));
    }
  }
}

TEST(Update, ASkippedStepLeavesEveryBitAlone) {
  const int64_t n = 1000;
  for (const UpdateTypes types : {UpdateTypes{}, UpdateTypes{DType::bf16, DType::bf16, DType::bf16}}) {
    TestDevice device = TestDevice::under_test();
    UpdateShard shard = make_shard(device, UpdateRule::AdamW, n, types, DType::f16);
    shard.first = device.tensor({n}, random_values(n, "m"), types.moment);
    shard.second = device.tensor({n}, std::vector<float>(n, 0.25f), types.moment);
    shard.gradient = device.tensor({n}, std::vector<float>(n, NAN), types.gradient);
    const auto before = state_of(device, shard);
    auto* control = device.placed(StepControl{.applied_steps = 3, .skip = 1});
    device->update().update(UpdateRule::AdamW, shard, two_segments(n), usual_hyper, 1, control, device.stream());
    EXPECT_TRUE(state_of(device, shard) == before);
    EXPECT_EQ(device.values(shard.weight), std::vector<float>(n));
  }
}

/// k / 1024 with random k in [0, 1024), plus `from`.
std::vector<float> random_fractions(int64_t n, const std::string& name, float from) {
  const RandomStream stream(3, RandomPurpose::Sample, name);
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); i++) values[i] = from + static_cast<float>(stream.below(i, 1024)) / 1024;
  return values;
}

TEST(Update, RoundsToBf16ByTheHalfWordsOfEachElement) {
  // Numbers for which fp32 arithmetic is exact, so that every bit is known.
  const int64_t n = 40007, first = 13;
  TestDevice device = TestDevice::under_test(3);
  const std::vector<float> before = rounded_to(DType::bf16, random_fractions(n, "before", 1)),
                           gradient = random_fractions(n, "gradient", 0);
  auto* control = device.placed(StepControl{.applied_steps = 1});
  const RandomStream stream = rounding_of("a").at(5);
  const UpdateSegment segment{3, n, 0, rounding_of("a"), first};
  const auto in_bf16 = [&] { return device.tensor({n}, before, DType::bf16); };
  // Momentum: m = m / 2 + g;  w -= m / 4.
  const UpdateShard moved{.master = in_bf16(), .weight = {}, .gradient = device.tensor({n}, gradient), .first = in_bf16(), .second = {}};
  device->update().update(UpdateRule::Momentum, moved, {&segment, 1}, {.learning_rate = 0.25f, .beta1 = 0.5f}, 5, control, device.stream());
  // Adam at rate 0: m = m / 2 + g / 2;  v = v / 2 + g^2 / 2.
  const UpdateShard stays{
      .master = in_bf16(), .weight = {}, .gradient = device.tensor({n}, gradient), .first = in_bf16(), .second = in_bf16()};
  device->update().update(UpdateRule::Adam, stays, {&segment, 1}, {.learning_rate = 0, .beta1 = 0.5f, .beta2 = 0.5f, .epsilon = 1}, 5,
                          control, device.stream());
  const auto of_momentum = state_of(device, moved), of_adam = state_of(device, stays);
  for (int64_t i = 3; i < n; i++) {
    const uint64_t half_word = 4 * static_cast<uint64_t>(first + i - 3);
    const auto rounded = [&](float value, uint64_t which) {
      return static_cast<float>(rounded_stochastically(value, stream.half_word(half_word + which)));
    };
    const float m = before[i] / 2 + gradient[i];
    ASSERT_EQ(of_momentum.first[i], rounded(m, 1)) << i;
    ASSERT_EQ(of_momentum.master[i], rounded(before[i] - m / 4, 0)) << i;
    ASSERT_EQ(of_adam.master[i], before[i]) << i << ": what is a bf16 number stays";
    ASSERT_EQ(of_adam.first[i], rounded(before[i] / 2 + gradient[i] / 2, 1)) << i;
    ASSERT_EQ(of_adam.second[i], rounded(before[i] / 2 + gradient[i] * gradient[i] / 2, 2)) << i;
  }
}

TEST(Update, StochasticRoundingKeepsInfinitiesAndNan) {
  const int64_t n = 1000;
  TestDevice device = TestDevice::under_test();
  std::vector<float> gradient(n, INFINITY);
  for (int64_t i = 0; i < n; i += 2) gradient[i] = std::bit_cast<float>(0x7FFFFFFF);  // adding to this NaN's bits gives -0
  auto* control = device.placed(StepControl{});
  const UpdateSegment segment{0, n, 0, rounding_of("a"), 0};
  const UpdateShard shard{.master = device.tensor({n}, std::vector<float>(n, 1.0f), DType::bf16),
                          .weight = {},
                          .gradient = device.tensor({n}, gradient),
                          .first = {},
                          .second = {}};
  device->update().update(UpdateRule::Sgd, shard, {&segment, 1}, usual_hyper, 1, control, device.stream());
  const std::vector<float> master = device.values(shard.master);
  for (int64_t i = 0; i < n; i++) {
    EXPECT_TRUE(i % 2 == 0 ? std::isnan(master[i]) : master[i] == -INFINITY) << i << ": " << master[i];
  }
}

/// The mean change of n equal weights, kept in `dtype`, after `steps` steps of SGD that each change them by `change`.
double mean_drift(DType dtype, int64_t n, int steps, float change) {
  TestDevice device = TestDevice::under_test();
  auto* control = device.placed(StepControl{});
  const float start = 1.25f;
  const UpdateShard shard{.master = device.tensor({n}, std::vector<float>(n, start), dtype),
                          .weight = {},
                          .gradient = device.tensor({n}, std::vector<float>(n, -1.0f)),
                          .first = {},
                          .second = {}};
  const UpdateSegment segment{0, n, 0, rounding_of("a"), 0};
  for (int step = 0; step < steps; step++) {
    device->update().update(UpdateRule::Sgd, shard, {&segment, 1}, {.learning_rate = change}, step, control, device.stream());
  }
  double sum = 0;
  for (const float value : device.values(shard.master)) sum += static_cast<double>(value) - start;
  return sum / static_cast<double>(n);
}

TEST(Update, ABf16WeightDriftsInTheMeanAsAnFp32WeightUnderUpdatesThatNearestRoundingWouldLose) {
  // One bf16 step between 1 and 2 is 2^-7; a change of 1/64 of it moves a weight once in 64 updates. All start and stay in [1, 2).
  const int64_t n = emulated_or(512, 4096);
  const int steps = 1000;
  const double unit = 0x1p-7, probability = 1.0 / 64;
  const float change = static_cast<float>(unit * probability);
  EXPECT_EQ(static_cast<float>(bf16_t(1.25f + change)), 1.25f) << "to nearest, the weight would never move";
  const double drift = steps * unit * probability;
  EXPECT_NEAR(mean_drift(DType::f32, n, steps, change), drift, 1e-6);
  // Each weight moves by a binomial number of units: variance steps p (1 - p). Five deviations of the mean of n weights.
  const double deviation = unit * std::sqrt(steps * probability * (1 - probability) / static_cast<double>(n));
  EXPECT_NEAR(mean_drift(DType::bf16, n, steps, change), drift, 5 * deviation);
}

/// The partial after one call of gradient_norm for each of `pieces`.
StepPartial norm_of(TestDevice& device, const std::vector<std::vector<float>>& pieces, DType dtype = DType::f32, float loss_scale = 1) {
  auto* partial = device.placed(StepPartial{});
  auto* control = device.placed(StepControl{.loss_scale = loss_scale});
  device->update().begin_step(partial, 0, device.stream());
  for (const auto& piece : pieces) {
    const Tensor gradient = device.tensor({static_cast<int64_t>(piece.size())}, piece, dtype);
    device->update().gradient_norm(partial, gradient, control, device.stream());
  }
  return device.read(partial);
}

double value_of(FixedSum sum) { return std::ldexp(static_cast<double>(sum), -fixed_sum_fraction_bits); }

TEST(GradientNorm, IsTheSumOfSquares) {
  TestDevice device = TestDevice::under_test();
  for (const int64_t n : {1, 255, 256, 257, 1023, emulated_or(30001, 300001)}) {
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
  TestDevice cpu = TestDevice::cpu(1), one = TestDevice::under_test(1), three = TestDevice::under_test(3);
  const FixedSum expected = norm_of(cpu, {gradient}).norm_squares;
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

TEST(GradientNorm, OfBf16IsThatOfTheSameValuesInFp32) {
  TestDevice device = TestDevice::under_test();
  for (const int64_t n : {1, 257, emulated_or(10001, 100001)}) {
    const std::vector<float> gradient = rounded_to(DType::bf16, random_values(n, "gradient"));
    EXPECT_TRUE(norm_of(device, {gradient}, DType::bf16).norm_squares == norm_of(device, {gradient}).norm_squares) << n;
  }
  EXPECT_EQ(norm_of(device, {{1, INFINITY, 1}}, DType::bf16).nonfinite, 1);
}

TEST(GradientNorm, IsThatOfTheGradientWithoutTheLossScale) {
  TestDevice device = TestDevice::under_test();
  const std::vector<float> gradient = random_values(1000, "gradient", 1e-3f);
  for (const float scale : {2.0f, 65536.0f, 0x1p24f}) {
    std::vector<float> scaled = gradient;
    for (float& value : scaled) value *= scale;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      EXPECT_TRUE(norm_of(device, {scaled}, dtype, scale).norm_squares == norm_of(device, {gradient}, dtype).norm_squares) << scale;
    }
  }
  EXPECT_EQ(norm_of(device, {{1048576.0f}}).nonfinite, 1);
  EXPECT_EQ(norm_of(device, {{1048576.0f}}, DType::f32, 2).nonfinite, 0) << "only the unscaled gradient can be too large";
}

TEST(GradientNorm, RoundsBlocksToTheNearestEvenUnit) {
  TestDevice device = TestDevice::under_test();
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
  TestDevice device = TestDevice::under_test();
  for (const int64_t n : {1, 300, emulated_or(10000, 100000)}) {
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
  TestDevice device = TestDevice::under_test();
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
  TestDevice device = TestDevice::under_test();
  auto* partial = device.placed(StepPartial{});
  const std::vector<float> losses = random_values(2501, "losses");
  device->update().begin_step(partial, 0, device.stream());
  device->update().add_loss(partial, device.tensor({2501}, losses), device.stream());
  device->update().add_loss(partial, device.tensor({2501}, losses), device.stream());
  double expected = 0;
  for (int repetition = 0; repetition < 2; repetition++) {
    for (const float loss : losses) expected += loss;
  }
  EXPECT_EQ(device.read(partial).loss_sum, expected);
  EXPECT_EQ(device.read(partial).nonfinite, 0);
  device->update().add_loss(partial, device.tensor({3}, std::vector<float>{1, INFINITY, 1}), device.stream());
  EXPECT_EQ(device.read(partial).nonfinite, 1);
}

TEST(StepControl, BeginningAStepForgetsTheLastOne) {
  TestDevice device = TestDevice::under_test();
  auto* partial = device.placed(StepPartial{.norm_squares = 5, .loss_sum = 3, .nonfinite = 1, .stop_vote = 0});
  device->update().begin_step(partial, 1, device.stream());
  EXPECT_TRUE(device.read(partial).norm_squares == 0);
  EXPECT_EQ(device.read(partial).loss_sum, 0);
  EXPECT_EQ(device.read(partial).nonfinite, 0);
  EXPECT_EQ(device.read(partial).stop_vote, 1);
}

/// The control after agree_step of these partials on `before`.
StepControl agreed_on(TestDevice& device, const std::vector<StepPartial>& partials, float clip, const StepControl& before = {},
                      const LossScaling& scaling = {}) {
  auto* control = device.placed(before);
  device->update().agree_step(control, device.placed(partials), static_cast<int>(partials.size()), clip, scaling, device.stream());
  return device.read(control);
}
StepControl agreed(const std::vector<StepPartial>& partials, float clip, const StepControl& before = {}, const LossScaling& scaling = {}) {
  TestDevice device = TestDevice::under_test(1);
  return agreed_on(device, partials, clip, before, scaling);
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

TEST(StepControl, ManyRanksAgreeWithTheBitsOfTheCpu) {
  std::vector<StepPartial> partials(1000);
  double loss_sum = 0;
  const std::vector<float> losses = random_values(1000, "losses"), norms = random_values(1000, "norms");
  for (size_t rank = 0; rank < partials.size(); rank++) {
    const auto squares = static_cast<FixedSum>(std::abs(norms[rank]) * 0x1p40) * (one / 1000003 + static_cast<FixedSum>(rank));
    partials[rank] = {.norm_squares = squares, .loss_sum = losses[rank] / 3.0, .nonfinite = 0, .stop_vote = 1};
    loss_sum += partials[rank].loss_sum;
  }
  TestDevice cpu = TestDevice::cpu(1), device = TestDevice::under_test();
  const StepControl theirs = agreed_on(cpu, partials, 1e-3f), ours = agreed_on(device, partials, 1e-3f);
  EXPECT_EQ(ours.loss_sum, loss_sum);
  EXPECT_EQ(ours.stop_votes, 1000);
  EXPECT_EQ(ours.skip, 0);
  EXPECT_EQ(ours.gradient_norm, theirs.gradient_norm);
  EXPECT_EQ(ours.clip_scale, theirs.clip_scale);
}

TEST(StepControl, TheNormIsTheRootOfItsSquaresRoundedToNearestEven) {
  TestDevice device = TestDevice::under_test();
  const FixedSum odd = (FixedSum{1} << 53) + 1;  // one bit more than fp64 has
  for (const FixedSum squares :
       {FixedSum{0}, FixedSum{1}, odd, odd << 40, (odd << 40) + 1, (odd << 73) + 1, one, (FixedSum{1} << 126) + 1}) {
    EXPECT_EQ(agreed_on(device, {{squares, 0, 0, 0}}, 0).gradient_norm, std::sqrt(std::ldexp(static_cast<double>(squares), -80)));
  }
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

TEST(StepControl, TheUpdateMultipliesByTheClipScaleOverTheLossScaleOfTheStepThatEnded) {
  const LossScaling scaling{.dynamic = true, .growth_steps = 1};
  const StepControl control = agreed({{25 * one, 0, 0, 0}}, 2, {.loss_scale = 1024, .overflows_left = 2}, scaling);
  EXPECT_EQ(control.clip_scale, 0.4f);
  EXPECT_EQ(control.gradient_factor, 0.4f / 1024);
  EXPECT_EQ(control.loss_scale, 2048) << "of the coming step";
  EXPECT_EQ(agreed({{0, 0, 0, 0}}, 2, {.loss_scale = 8}).gradient_factor, 0.125f);
}

/// The loss scales after steps that were applied ('.') or overflowed ('x').
std::vector<float> loss_scales(const std::string& steps, const LossScaling& scaling) {
  StepControl control{.loss_scale = scaling.initial, .overflows_left = scaling.hysteresis};
  std::vector<float> scales;
  TestDevice device = TestDevice::under_test(1);
  for (const char step : steps) {
    control = agreed_on(device, {{one, 1, step == 'x', 0}}, 0, control, scaling);
    scales.push_back(control.loss_scale);
  }
  return scales;
}

TEST(LossScale, DoublesAfterEnoughAppliedStepsAndHalvesOnTheSecondOverflow) {
  const LossScaling scaling{.dynamic = true, .initial = 64, .growth_steps = 3, .hysteresis = 2};
  EXPECT_EQ(loss_scales("......", scaling), (std::vector<float>{64, 64, 128, 128, 128, 256}));
  EXPECT_EQ(loss_scales("xxxx", scaling), (std::vector<float>{64, 32, 16, 8}));
  EXPECT_EQ(loss_scales("x..x...", scaling), (std::vector<float>{64, 64, 64, 32, 32, 32, 64})) << "halving forgets the steps before";
  EXPECT_EQ(loss_scales("x...xx", scaling), (std::vector<float>{64, 64, 64, 128, 128, 64})) << "growing restores the hysteresis";
  EXPECT_EQ(loss_scales(".x..", scaling), (std::vector<float>{64, 64, 64, 128})) << "a survived overflow does not restart the count";
}

TEST(LossScale, StaysWithinItsLimitsAndWhereItIsNotDynamic) {
  const LossScaling scaling{.dynamic = true, .initial = 4, .growth_steps = 1, .hysteresis = 1, .least = 2, .most = 8};
  EXPECT_EQ(loss_scales("...xxxx.", scaling), (std::vector<float>{8, 8, 8, 4, 2, 2, 2, 4}));
  const LossScaling fixed{.dynamic = false, .initial = 4, .growth_steps = 1, .hysteresis = 1};
  EXPECT_EQ(loss_scales(".x.x", fixed), (std::vector<float>{4, 4, 4, 4}));
}

void every_op(TestDevice& device) {
  const int64_t n = 1000;
  const Tensor x = device.tensor({n});
  const std::vector<UpdateSegment> segments = {{0, 100, 0.1f, {}, 0}, {300, n, 0.0f, {}, 0}};
  UpdateOps& ops = device->update();
  auto* control = device.placed(StepControl{});
  auto* partial = device.placed(StepPartial{});
  ops.begin_step(partial, 0, device.stream());
  ops.gradient_norm(partial, x, control, device.stream());
  ops.gradient_norm(partial, device.tensor({n}, DType::bf16), control, device.stream());
  ops.add_loss(partial, x, device.stream());
  ops.agree_step(control, partial, 1, 1, {}, device.stream());
  for (const UpdateRule rule : update_rules) {
    UpdateShard shard = make_shard(device, rule, n, {.moment = DType::bf16}, DType::f16);
    shard.gradient = x;
    ops.update(rule, shard, segments, usual_hyper, 1, control, device.stream());
  }
}

TEST(UpdateOps, TheNullDeviceRecordsTheSameOps) { expect_same_trace_on_null(10, every_op); }

TEST(UpdateOps, AnUpdateIsPricedByWhatItUpdates) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  every_op(device);
  ASSERT_EQ(trace.size(), 10u);
  const OpKind kinds[] = {OpKind::Sgd, OpKind::Momentum, OpKind::AdaGrad, OpKind::Adam, OpKind::AdamW};
  for (size_t i = 0; i < 5; i++) {  // 800 elements: fp32 master and gradient, bf16 states, an fp16 weight
    const OpInfo& info = trace[5 + i].info;
    const int64_t kept = 4 + 2 * states_of(update_rules[i]);
    EXPECT_EQ(info.kind, kinds[i]);
    EXPECT_EQ(info.read_bytes, 800 * (kept + 4));
    EXPECT_EQ(info.write_bytes, 800 * (kept + 2));
  }
  EXPECT_EQ(trace.back().info.flops, 800 * 16.0);
}

TEST(UpdateOps, AnEmptyShardIsNoWork) {
  TestDevice device = TestDevice::under_test();
  const Tensor nothing(nullptr, DType::f32, {0});
  auto* control = device.placed(StepControl{.applied_steps = 1});
  const UpdateShard shard{.master = nothing, .weight = nothing, .gradient = nothing, .first = nothing, .second = nothing};
  device->update().update(UpdateRule::AdamW, shard, {}, usual_hyper, 1, control, device.stream());
  auto* partial = device.placed(StepPartial{});
  device->update().gradient_norm(partial, nothing, control, device.stream());
  EXPECT_TRUE(device.read(partial).norm_squares == 0);
}

TEST(UpdateOps, WrongShapesAndTypesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor x = device.tensor({64}), other = device.tensor({63}), integers = device.tensor({64}, DType::i32);
  const Tensor half = device.tensor({64}, DType::f16);
  auto* control = device.placed(StepControl{});
  auto* partial = device.placed(StepPartial{});
  Stream& stream = device.stream();
  const auto update = [&](UpdateRule rule, UpdateShard shard, std::vector<UpdateSegment> segments) {
    device->update().update(rule, shard, segments, usual_hyper, 1, control, stream);
  };
  const auto of_states = [&](UpdateRule rule, Tensor first, Tensor second) { update(rule, {x, {}, x, first, second}, {}); };
  const auto of_segments = [&](std::vector<UpdateSegment> segments) { update(UpdateRule::AdamW, {x, {}, x, x, x}, segments); };
  of_states(UpdateRule::AdamW, x, x);
  EXPECT_THROW(of_states(UpdateRule::AdamW, x, other), InternalError);
  EXPECT_THROW(of_states(UpdateRule::AdamW, x, {}), InternalError);
  EXPECT_THROW(of_states(UpdateRule::Momentum, {}, {}), InternalError);
  EXPECT_THROW(of_states(UpdateRule::Momentum, x, x), InternalError);
  EXPECT_THROW(of_states(UpdateRule::Sgd, x, {}), InternalError);
  EXPECT_THROW(of_states(UpdateRule::Momentum, half, {}), InternalError);
  update(UpdateRule::Sgd, {x, half, x, {}, {}}, {});
  EXPECT_THROW(update(UpdateRule::Sgd, {x, integers, x, {}, {}}, {}), InternalError);
  EXPECT_THROW(update(UpdateRule::Sgd, {x, other, x, {}, {}}, {}), InternalError);
  EXPECT_THROW(update(UpdateRule::Sgd, {half, {}, x, {}, {}}, {}), InternalError);
  EXPECT_THROW(update(UpdateRule::Sgd, {x, {}, half, {}, {}}, {}), InternalError);
  of_segments({{0, 40, 0, {}, 0}, {40, 64, 0, {}, 0}});
  EXPECT_THROW(of_segments({{0, 65, 0, {}, 0}}), InternalError);
  EXPECT_THROW(of_segments({{0, 40, 0, {}, 0}, {39, 64, 0, {}, 0}}), InternalError);
  EXPECT_THROW(of_segments({{-1, 40, 0, {}, 0}}), InternalError);
  EXPECT_THROW(device->update().gradient_norm(partial, integers, control, stream), InternalError);
  EXPECT_THROW(device->update().gradient_norm(partial, half, control, stream), InternalError);
  EXPECT_THROW(device->update().add_loss(partial, integers, stream), InternalError);
  EXPECT_THROW(device->update().agree_step(control, partial, 0, 1, {}, stream), InternalError);
}

}  // namespace
}  // namespace tessera
