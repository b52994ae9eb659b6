#include "engine/accounts.h"

#include <gtest/gtest.h>

#include "tests/tiny_run.h"

namespace tessera {

namespace {

/// Every phase and every reason with seconds of its own: powers of two, so that each sum tells its terms.
Profile profile_of_two_steps() {
  Profile profile;
  for (int phase = 0; phase < phases; phase++) profile.op_seconds[static_cast<int>(OpKind::Add)][phase] = 2 << phase;
  for (int reason = 0; reason < wait_reasons; reason++) profile.wait_seconds[reason] = 2048 << reason;
  profile.idle_seconds[static_cast<int>(WaitReason::Pp)] = 2;
  return profile;
}

double phase_seconds(Phase phase) { return 1 << static_cast<int>(phase); }
double wait_seconds(WaitReason reason) { return 1024 << static_cast<int>(reason); }

/// The waterfall of one rank's steps, with the time between the first and the last of them as the step.
struct RankWaterfall {
  double start = 0;
  Waterfall waterfall;
};
std::vector<RankWaterfall> waterfalls_of(const std::vector<std::string>& sets, int ranks) {
  std::vector<RankWaterfall> result(ranks);
  TinyRun tiny{.sets = sets, .ranks = ranks, .steps = 3};
  tiny.start = [&](Trainer& trainer) {
    trainer.initialize();
    trainer.device().compute().profile() = {};
    result[trainer.mesh().rank()].start = steady_seconds();
  };
  tiny.finish = [&](Trainer& trainer) {
    RankWaterfall& own = result[trainer.mesh().rank()];
    own.waterfall = waterfall_of(trainer.device().compute().profile(), 3, steady_seconds() - own.start, 0);
  };
  run_tiny(tiny);
  return result;
}

}  // namespace

TEST(WaterfallOf, ChargesEachPhaseAndEachWaitToOneBarOfTheMeanStep) {
  const Waterfall waterfall = waterfall_of(profile_of_two_steps(), 2, 1e6, 0);
  EXPECT_EQ(waterfall[Bar::Forward], phase_seconds(Phase::Forward));
  EXPECT_EQ(waterfall[Bar::Backward], phase_seconds(Phase::Backward));
  EXPECT_EQ(waterfall[Bar::Recompute], phase_seconds(Phase::Recompute));
  EXPECT_EQ(waterfall[Bar::Optimizer], phase_seconds(Phase::Data) + phase_seconds(Phase::Exchange) + phase_seconds(Phase::Update));
  EXPECT_EQ(waterfall[Bar::ExposedTp], wait_seconds(WaitReason::Tp));
  EXPECT_EQ(waterfall[Bar::ExposedDp], wait_seconds(WaitReason::Dp));
  EXPECT_EQ(waterfall[Bar::ExposedTied], wait_seconds(WaitReason::Tied));
  EXPECT_EQ(waterfall[Bar::ExposedControl], wait_seconds(WaitReason::Control));
  EXPECT_EQ(waterfall[Bar::Data], wait_seconds(WaitReason::Data));
  EXPECT_EQ(waterfall[Bar::Checkpoint], 0);
}

TEST(WaterfallOf, SplitsPipelineWaitsIntoSleepAndTransfer) {
  const Waterfall waterfall = waterfall_of(profile_of_two_steps(), 2, 1e6, 0);
  EXPECT_EQ(waterfall[Bar::Bubble], 1);
  EXPECT_EQ(waterfall[Bar::ExposedPp], wait_seconds(WaitReason::Pp) - 1);
}

TEST(WaterfallOf, SavesLengthenTheStepThatTheyAreSharedOutOver) {
  const Waterfall waterfall = waterfall_of({}, 4, 8, 2);
  EXPECT_EQ(waterfall.step_seconds, 2.5);
  EXPECT_EQ(waterfall[Bar::Checkpoint], 0.5);
  EXPECT_EQ(waterfall.other(), 2);
}

TEST(WaterfallRanks, APipelineWaitsForNeighboursForTheTiedWeightAndForAllRanksAndNoSecondIsCountedTwice) {
  for (const RankWaterfall& rank : waterfalls_of({"parallel.pp=2", "parallel.dp=2"}, 4)) {
    const Waterfall& waterfall = rank.waterfall;
    for (const Bar bar : {Bar::Forward, Bar::Backward, Bar::ExposedDp, Bar::ExposedTied, Bar::ExposedControl, Bar::Optimizer, Bar::Data}) {
      EXPECT_GT(waterfall[bar], 0) << name_of(bar);
    }
    EXPECT_GT(waterfall[Bar::ExposedPp] + waterfall[Bar::Bubble], 0);
    EXPECT_GE(waterfall[Bar::ExposedPp], 0);
    EXPECT_GE(waterfall.other(), 0);  // the bars are parts of the wall time
  }
}

TEST(WaterfallRanks, OneRankWaitsForNobody) {
  const Waterfall waterfall = waterfalls_of({}, 1).front().waterfall;
  for (const Bar bar : {Bar::ExposedTp, Bar::ExposedDp, Bar::ExposedPp, Bar::ExposedTied, Bar::ExposedControl, Bar::Bubble}) {
    EXPECT_EQ(waterfall[bar], 0) << name_of(bar);
  }
}

TEST(UtilizationInput, CountsWhatIsMultipliedApartFromWhatIsLookedUp) {
  const ResolvedRun run = resolve_tiny({.sets = {"parallel.pp=2", "parallel.dp=2"}, .ranks = 4});
  const UtilizationInput input = utilization_input(run);
  const int64_t H = 32, V = 96, T = 16, blocks = 4;
  const int64_t matrices = blocks * 12 * H * H;
  EXPECT_EQ(input.matmul_parameters, matrices + V * H);                           // the tied head is multiplied
  EXPECT_EQ(input.parameters, matrices + (V + T) * H + blocks * 13 * H + 2 * H);  // biases 4 H + 5 H, two norms 4 H a block; the last norm
  EXPECT_EQ(input.tokens_per_step, 8 * T);
  EXPECT_EQ(input.devices, 4);
  EXPECT_EQ(input.layers, blocks);
  EXPECT_EQ(input.sequence, T);
  EXPECT_EQ(input.vocab, V);
}

}  // namespace tessera
