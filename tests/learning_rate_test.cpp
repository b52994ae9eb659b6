#include "optim/learning_rate.h"

#include <gtest/gtest.h>

namespace tessera {

TEST(LearningRate, RisesLinearlyToThePeakAndEndsExactlyAtTheFinalFraction) {
  const LearningRateCurve curve{.peak = 3e-4, .final_fraction = 0.1, .warmup_steps = 10, .steps = 100};
  EXPECT_DOUBLE_EQ(learning_rate(curve, 0), 3e-5);
  EXPECT_DOUBLE_EQ(learning_rate(curve, 4), 1.5e-4);
  EXPECT_DOUBLE_EQ(learning_rate(curve, 9), 3e-4);
  EXPECT_DOUBLE_EQ(learning_rate(curve, 10), 3e-4);
  EXPECT_EQ(learning_rate(curve, 99), 3e-4 * 0.1);
  EXPECT_EQ(learning_rate(curve, 500), 3e-4 * 0.1);
}

TEST(LearningRate, FallsMonotonouslyAfterTheWarmUpAndIsHalfWayInTheMiddle) {
  const LearningRateCurve curve{.peak = 1, .final_fraction = 0, .warmup_steps = 0, .steps = 101};
  for (int64_t step = 1; step < 101; step++) EXPECT_LT(learning_rate(curve, step), learning_rate(curve, step - 1));
  EXPECT_NEAR(learning_rate(curve, 50), 0.5, 1e-12);
}

TEST(LearningRate, OneStepRunsAtTheFinalRate) {
  EXPECT_EQ(learning_rate({.peak = 2, .final_fraction = 0.5, .warmup_steps = 0, .steps = 1}, 0), 1.0);
}

}  // namespace tessera
