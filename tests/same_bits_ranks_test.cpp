// The promises of docs/numerics.md that say "same bits", on layouts of thread ranks. Clipping is active in all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "engine/checkpoint.h"
#include "engine/checkpoint_ranges.h"
#include "model/loss_head.h"
#include "tests/tiny_run.h"

namespace tessera {

namespace {

struct Case {
  const char* name;
  std::vector<std::string> sets;
  int ranks;
};

void expect_same_bits(const TinyResult& a, const TinyResult& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.states, b.states);
}

TinyResult run(std::vector<std::string> sets, int ranks, int64_t steps = 8) {
  return run_tiny({.sets = std::move(sets), .ranks = ranks, .steps = steps});
}

using Tensors = std::map<std::string, std::vector<float>>;

/// The largest |a - b| over the largest |b|.
double difference(const Tensors& a, const Tensors& b) {
  double most = 0, scale = 0;
  for (const auto& [name, values] : b) {
    const std::vector<float>& other = a.at(name);
    for (size_t i = 0; i < values.size(); i++) {
      most = std::max(most, std::abs(static_cast<double>(other[i]) - values[i]));
      scale = std::max(scale, std::abs(static_cast<double>(values[i])));
    }
  }
  return most / scale;
}

}  // namespace

TEST(SameBitsRanks, ClippingIsActiveInTheseRuns) {
  const TinyResult result = run({}, 1);
  for (double norm : result.norms) EXPECT_GT(norm, resolve_tiny({}).config.train.clip);
}

TEST(SameBitsRanks, TwoRunsOfOneConfiguration) { expect_same_bits(run({}, 1), run({}, 1)); }

TEST(SameBitsRanks, TheSchedules1f1bAndGpipe) {
  expect_same_bits(run({"parallel.pp=2", "parallel.schedule=1f1b"}, 2), run({"parallel.pp=2", "parallel.schedule=gpipe"}, 2));
  expect_same_bits(run({"parallel.pp=4", "parallel.schedule=1f1b"}, 4), run({"parallel.pp=4", "parallel.schedule=gpipe"}, 4));
}

TEST(SameBitsRanks, PipelineDepths2And4OfATiedModel) { expect_same_bits(run({"parallel.pp=2"}, 2), run({"parallel.pp=4"}, 4)); }

TEST(SameBitsRanks, PipelineDepths1And2And4OfAnUntiedModel) {
  const TinyResult one = run({"model.tied=false"}, 1);
  expect_same_bits(run({"model.tied=false", "parallel.pp=2"}, 2), one);
  expect_same_bits(run({"model.tied=false", "parallel.pp=4"}, 4), one);
}

TEST(SameBitsRanks, Zero0AndZero1) {
  expect_same_bits(run({"parallel.dp=2", "parallel.zero=0"}, 2), run({"parallel.dp=2", "parallel.zero=1"}, 2));
  expect_same_bits(run({"parallel.dp=2", "parallel.pp=2", "parallel.zero=0"}, 4),
                   run({"parallel.dp=2", "parallel.pp=2", "parallel.zero=1"}, 4));
}

TEST(SameBitsRanks, MoreReplicasComputeTheSameUpToRounding) {
  const TinyResult one = run({}, 1);
  for (const Case& layout : {Case{"dp=2", {"parallel.dp=2"}, 2}, Case{"dp=4", {"parallel.dp=4"}, 4}, Case{"pp=2", {"parallel.pp=2"}, 2},
                             Case{"dp=2 pp=2 zero=1", {"parallel.dp=2", "parallel.pp=2", "parallel.zero=1"}, 4}}) {
    const TinyResult other = run(layout.sets, layout.ranks);
    for (size_t s = 0; s < one.losses.size(); s++) {
      EXPECT_NEAR(other.losses[s] / one.losses[s], 1, 1e-5) << layout.name << ", step " << s;
      EXPECT_NEAR(other.norms[s] / one.norms[s], 1, 1e-4) << layout.name << ", step " << s;
    }
    // Adam divides by the root of tiny second moments: rounding of a gradient near 0 is amplified.
    EXPECT_LT(difference(other.weights, one.weights), 1e-3) << layout.name;
  }
}

TEST(SameBitsRanks, LogitsInSeveralChunksOfRowsGiveTheSameUpToRounding) {
  const std::vector<std::string> wide = {"model.layers=1", "model.hidden=8", "model.heads=1", "model.vocab=65536", "train.batch_size=33"};
  const auto train = [&](int64_t micro_batch_size) {
    std::vector<std::string> sets = wide;
    sets.push_back("train.micro_batch_size=" + std::to_string(micro_batch_size));
    const BatchShape shape = resolve_tiny({.sets = sets}).micro_batch;
    EXPECT_EQ(loss_chunk_rows(shape.rows(), 65536, DType::f32) < shape.rows(), micro_batch_size == 33)
        << "two chunks, the last one short, against one";
    return run_tiny({.sets = sets, .steps = 1});
  };
  const TinyResult chunks = train(33), whole = train(11);
  EXPECT_NEAR(chunks.losses[0] / whole.losses[0], 1, 1e-5);
  EXPECT_LT(difference(chunks.first_gradients, whole.first_gradients), 1e-4);
}

/// A run cut in two by a checkpoint: `first` layout to the middle, `second` from there.
class ResumeRanks : public testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        std::filesystem::path(testing::TempDir()) / "tessera_resume" / testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  TinyResult run_and_save(const Case& layout, int64_t steps, int64_t curve_steps) {
    return run_tiny(
        {.sets = with_curve(layout.sets, curve_steps), .ranks = layout.ranks, .steps = steps, .finish = [this, steps](Trainer& trainer) {
           CheckpointStore store(directory_, 2, trainer.mesh().host(), nullptr);
           const StepControl control = trainer.control(steps - 1);
           store.save({.step = control.step, .applied_steps = control.applied_steps, .samples = trainer.samples()}, ranges_to_save(trainer),
                      trainer.device());
         }});
  }
  TinyResult load_and_run(const Case& layout, int64_t steps, int64_t first_step, int64_t curve_steps) {
    return run_tiny({.sets = with_curve(layout.sets, curve_steps),
                     .ranks = layout.ranks,
                     .steps = steps,
                     .first_step = first_step,
                     .start = [this](Trainer& trainer) {
                       trainer.initialize();
                       CheckpointStore store(directory_, 2, trainer.mesh().host(), nullptr);
                       const CheckpointState state = store.newest().value();
                       store.load(state.step, ranges_to_load(trainer), trainer.device());
                       trainer.restore({.step = state.step, .applied_steps = state.applied_steps}, state.samples);
                     }});
  }
  static std::vector<std::string> with_curve(std::vector<std::string> sets, int64_t steps) {
    sets.push_back("train.steps=" + std::to_string(steps));
    return sets;
  }

  std::filesystem::path directory_;
};

const std::vector<Case>& layouts() {
  static const std::vector<Case> all = {{"one", {}, 1},
                                        {"pp2", {"parallel.pp=2"}, 2},
                                        {"pp4gpipe", {"parallel.pp=4", "parallel.schedule=gpipe"}, 4},
                                        {"dp2zero0", {"parallel.dp=2"}, 2},
                                        {"dp2zero1", {"parallel.dp=2", "parallel.zero=1"}, 2},
                                        {"dp2pp2zero1", {"parallel.dp=2", "parallel.pp=2", "parallel.zero=1"}, 4}};
  return all;
}

TEST_F(ResumeRanks, FiftyStepsAndAResumeAndFiftyStepsEqualAHundred) {
  for (const Case& layout : {layouts()[0], layouts()[5]}) {
    std::filesystem::remove_all(directory_);
    const TinyResult whole = run_tiny({.sets = with_curve(layout.sets, 100), .ranks = layout.ranks, .steps = 100});
    const TinyResult before = run_and_save(layout, 50, 100);
    const TinyResult after = load_and_run(layout, 50, 50, 100);
    std::vector<double> losses = before.losses;
    losses.insert(losses.end(), after.losses.begin(), after.losses.end());
    EXPECT_EQ(losses, whole.losses) << layout.name;
    EXPECT_EQ(after.weights, whole.weights) << layout.name;
    EXPECT_EQ(after.states, whole.states) << layout.name;
  }
}

TEST_F(ResumeRanks, ACheckpointOfAnyLayoutLoadsInAnyOtherWithEveryTensorEqual) {
  for (const Case& from : layouts()) {
    std::filesystem::remove_all(directory_);
    const TinyResult saved = run_and_save(from, 3, 10);
    for (const Case& to : layouts()) {
      const TinyResult loaded = load_and_run(to, 0, 3, 10);
      EXPECT_EQ(loaded.weights, saved.weights) << from.name << " -> " << to.name;
      EXPECT_EQ(loaded.states, saved.states) << from.name << " -> " << to.name;
    }
  }
}

TEST(SameBitsRanks, AnEvaluationIsTheTrainingLossOfItsBatchesOnAnyLayout) {
  for (Case layout : layouts()) {
    std::vector<double> evaluated(layout.ranks);
    layout.sets.push_back("optimizer.learning_rate=0");  // both batches meet the initial weights
    const TinyResult trained = run_tiny({.sets = layout.sets, .ranks = layout.ranks, .steps = 2, .start = [&](Trainer& trainer) {
                                           trainer.initialize();
                                           const RandomSamples tokens(resolve_tiny({}).model.vocab);
                                           evaluated[trainer.mesh().rank()] = trainer.evaluate(&tokens, 2);
                                         }});
    for (double loss : evaluated) EXPECT_DOUBLE_EQ(loss, (trained.losses[0] + trained.losses[1]) / 2) << layout.name;
  }
}

}  // namespace tessera
