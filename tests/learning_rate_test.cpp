#include "optim/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace tessera {
namespace {

constexpr LearningRateShape shapes[] = {LearningRateShape::Constant, LearningRateShape::Linear, LearningRateShape::Cosine,
                                        LearningRateShape::Wsd};

TEST(LearningRate, EveryCurveRisesLinearlyToThePeakAndEndsExactlyAtItsFinalRate) {
  for (const LearningRateShape shape : shapes) {
    SCOPED_TRACE(static_cast<int>(shape));
    const LearningRateCurve curve{.shape = shape, .peak = 3e-4, .final_fraction = 0.1, .warmup_steps = 10, .decay_steps = 20, .steps = 100};
    EXPECT_DOUBLE_EQ(learning_rate(curve, 0), 3e-5);
    EXPECT_DOUBLE_EQ(learning_rate(curve, 4), 1.5e-4);
    EXPECT_DOUBLE_EQ(learning_rate(curve, 9), 3e-4);
    EXPECT_DOUBLE_EQ(learning_rate(curve, 10), 3e-4);
    const double last = shape == LearningRateShape::Constant ? 3e-4 : 3e-4 * 0.1;
    EXPECT_EQ(learning_rate(curve, 99), last);
    EXPECT_EQ(learning_rate(curve, 500), last);
  }
}

TEST(LearningRate, FallsInEveryStepAfterTheWarmUpAndIsHalfWayInTheMiddle) {
  for (const LearningRateShape shape : {LearningRateShape::Linear, LearningRateShape::Cosine}) {
    const LearningRateCurve curve{.shape = shape, .peak = 1, .final_fraction = 0, .warmup_steps = 0, .steps = 101};
    for (int64_t step = 1; step < 101; step++) EXPECT_LT(learning_rate(curve, step), learning_rate(curve, step - 1));
    EXPECT_NEAR(learning_rate(curve, 50), 0.5, 1e-12);
    const double quarter = shape == LearningRateShape::Linear ? 0.75 : 0.5 + std::sqrt(0.125);
    EXPECT_NEAR(learning_rate(curve, 25), quarter, 1e-12);
  }
}

TEST(LearningRate, WsdStaysAtThePeakAndFallsOnALineOverTheLastSteps) {
  const LearningRateCurve curve{
      .shape = LearningRateShape::Wsd, .peak = 1, .final_fraction = 0.2, .warmup_steps = 5, .decay_steps = 8, .steps = 50};
  for (int64_t step = 5; step < 42; step++) EXPECT_EQ(learning_rate(curve, step), 1) << step;
  for (int64_t step = 42; step < 50; step++) {
    EXPECT_NEAR(learning_rate(curve, step), 1 - 0.8 * static_cast<double>(step - 41) / 8, 1e-12) << step;
  }
}

TEST(LearningRate, AWsdDecayThatWouldBeginInTheWarmUpBeginsBehindIt) {
  const LearningRateCurve curve{
      .shape = LearningRateShape::Wsd, .peak = 1, .final_fraction = 0, .warmup_steps = 10, .decay_steps = 100, .steps = 21};
  EXPECT_EQ(learning_rate(curve, 9), 1);
  EXPECT_EQ(learning_rate(curve, 10), 1);
  EXPECT_NEAR(learning_rate(curve, 15), 0.5, 1e-12);
  EXPECT_EQ(learning_rate(curve, 20), 0);
}

TEST(LearningRate, OneStepRunsAtTheFinalRate) {
  for (const LearningRateShape shape : shapes) {
    const LearningRateCurve curve{.shape = shape, .peak = 2, .final_fraction = 0.5, .warmup_steps = 0, .decay_steps = 1, .steps = 1};
    EXPECT_EQ(learning_rate(curve, 0), shape == LearningRateShape::Constant ? 2.0 : 1.0);
  }
}

TEST(LearningRate, AWarmUpLongerThanTheRunNeverFalls) {
  for (const LearningRateShape shape : shapes) {
    const LearningRateCurve curve{.shape = shape, .peak = 1, .final_fraction = 0, .warmup_steps = 100, .steps = 10};
    EXPECT_DOUBLE_EQ(learning_rate(curve, 9), 0.1);
  }
}

TEST(LearningRate, CurvesHaveNames) {
  EXPECT_EQ(learning_rate_shape_named("constant"), LearningRateShape::Constant);
  EXPECT_EQ(learning_rate_shape_named("linear"), LearningRateShape::Linear);
  EXPECT_EQ(learning_rate_shape_named("cosine"), LearningRateShape::Cosine);
  EXPECT_EQ(learning_rate_shape_named("wsd"), LearningRateShape::Wsd);
  EXPECT_THROW(learning_rate_shape_named("sine"), InternalError);
}

}  // namespace
}  // namespace tessera
