// 16-bit runs keep the promises of fp32 ones: same bits across layouts and resumes. Loss scaling finds its scale.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "engine/checkpoint.h"
#include "engine/checkpoint_ranges.h"
#include "tests/tiny_run.h"

namespace tessera {
namespace {

struct PrecisionCase {
  std::string name;
  std::vector<std::string> sets;
  int threads = 1;  // of each rank
  friend void PrintTo(const PrecisionCase& precision, std::ostream* out) { *out << precision.name; }
};

class PrecisionRanks : public testing::TestWithParam<PrecisionCase> {
 protected:
  void SetUp() override {
    if (GetParam().name == "bf16_packed" && !processor_packs_weights()) GTEST_SKIP() << "this machine has no AVX-512";
  }
  TinyRun run(std::vector<std::string> layout, int ranks, int64_t steps) const {
    const std::vector<std::string> team = GetParam().threads > 1 ? team_sets(GetParam().threads) : std::vector<std::string>();
    for (const auto* sets : {&GetParam().sets, &team}) layout.insert(layout.end(), sets->begin(), sets->end());
    layout.push_back("model.tied=false");  // the same bits at every pipeline depth
    return {.sets = std::move(layout), .ranks = ranks, .steps = steps};
  }
};

void expect_same(const TinyResult& a, const TinyResult& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.states, b.states);
}

TEST_P(PrecisionRanks, PipelineDepthScheduleAndZeroStageChangeNoBit) {
  const int64_t steps = GetParam().threads > 1 ? 3 : 8;
  const TinyResult one = run_tiny(run({}, 1, steps));
  expect_same(run_tiny(run({"parallel.pp=2"}, 2, steps)), one);
  expect_same(run_tiny(run({"parallel.pp=4", "parallel.schedule=gpipe"}, 4, steps)), one);
  expect_same(run_tiny(run({"parallel.dp=2", "parallel.zero=1"}, 2, steps)), run_tiny(run({"parallel.dp=2"}, 2, steps)));
}

TEST_P(PrecisionRanks, AResumedRunChangesNoBit) {
  // The same test runs with fewer instructions at the same time.
  const auto folder = std::filesystem::path(testing::TempDir()) / fmt::format("precision_resume_{}_{}", GetParam().name, getpid());
  std::filesystem::remove_all(folder);
  const int64_t half = GetParam().threads > 1 ? 2 : 3;
  TinyRun first = run({"parallel.dp=2", "parallel.zero=1"}, 2, 2 * half);
  const TinyResult whole = run_tiny(first);
  first.steps = half;
  first.sets.push_back("train.steps=" + std::to_string(2 * half));
  first.finish = [&](Trainer& trainer) {
    const StepControl control = trainer.control(half - 1);
    CheckpointStore(folder, 1, trainer.mesh().host(), nullptr)
        .save({.step = half,
               .applied_steps = control.applied_steps,
               .skipped_in_a_row = control.skipped_in_a_row,
               .samples = trainer.samples(),
               .loss_scale = control.loss_scale,
               .good_steps = control.good_steps,
               .overflows_left = control.overflows_left},
              ranges_to_save(trainer), trainer.device());
  };
  run_tiny(first);
  TinyRun second = run({"parallel.dp=2", "parallel.zero=1"}, 2, half);
  second.first_step = half;
  second.start = [&](Trainer& trainer) {
    CheckpointStore store(folder, 1, trainer.mesh().host(), nullptr);
    const CheckpointState state = *store.newest();
    store.load(half, ranges_to_load(trainer), trainer.device(), LoadWhat::Whole);
    trainer.restore({.step = half,
                     .applied_steps = state.applied_steps,
                     .skipped_in_a_row = state.skipped_in_a_row,
                     .loss_scale = static_cast<float>(state.loss_scale),
                     .good_steps = static_cast<int32_t>(state.good_steps),
                     .overflows_left = static_cast<int32_t>(state.overflows_left)},
                    state.samples);
  };
  const TinyResult resumed = run_tiny(second);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(resumed.weights, whole.weights);
  EXPECT_EQ(resumed.states, whole.states);
  EXPECT_EQ(resumed.losses, std::vector<double>(whole.losses.begin() + half, whole.losses.end()));
}

INSTANTIATE_TEST_SUITE_P(
    Precisions, PrecisionRanks,
    testing::Values(PrecisionCase{"bf16", {"precision.compute=bf16"}},
                    PrecisionCase{"bf16_packed", {"precision.compute=bf16", "precision.packed_weights=on"}},
                    PrecisionCase{"fp16", {"precision.compute=fp16", "precision.loss_scale_growth_steps=2"}},
                    PrecisionCase{"bf16_states", {"precision.compute=bf16", "precision.gradients=bf16", "precision.moments=bf16"}},
                    PrecisionCase{
                        "all_bf16",
                        {"precision.compute=bf16", "precision.master=bf16", "precision.gradients=bf16", "precision.moments=bf16"}},
                    PrecisionCase{"gpt2_fp32", {}}, PrecisionCase{"llama_fp32", {"model.architecture=llama", "model.kv_heads=2"}},
                    PrecisionCase{"llama_bf16", {"model.architecture=llama", "model.kv_heads=2", "precision.compute=bf16"}}),
    [](const auto& precision) { return precision.param.name; });

std::vector<PrecisionCase> cases_of_teams() {
  std::vector<PrecisionCase> cases;
  for (const std::string model : {"gpt2", "llama"}) {
    for (const std::string compute : {"fp32", "bf16"}) {
      for (const int threads : {2, 3}) {
        cases.push_back({model + "_" + compute + "_" + std::to_string(threads),
                         {"model.architecture=" + model, "precision.compute=" + compute},
                         threads});
        if (model == "llama") cases.back().sets.push_back("model.kv_heads=2");
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Teams, PrecisionRanks, testing::ValuesIn(cases_of_teams()),
                         [](const auto& precision) { return precision.param.name; });

TEST(LossScaling, OverflowsHalveTheScaleUntilStepsAreFiniteAndGoodStepsDoubleIt) {
  TinyRun run{.sets = {"precision.compute=fp16", "precision.loss_scale=16777216", "precision.loss_scale_growth_steps=3",
                       "precision.loss_scale_hysteresis=1"},
              .steps = 40};
  std::vector<StepControl> controls;
  run.finish = [&](Trainer& trainer) {
    const RandomSamples data(trainer.run().model.vocab);
    for (int64_t step = 40; step < 60; step++) trainer.train_step(step, &data, false), controls.push_back(trainer.control(step));
  };
  const TinyResult result = run_tiny(run);
  EXPECT_LT(result.losses.back(), result.losses.front());
  bool grew = false, shrank = false;
  for (size_t s = 1; s < controls.size(); s++) {
    const float before = controls[s - 1].loss_scale, after = controls[s].loss_scale;
    EXPECT_TRUE(after == before || after == 2 * before || after == before / 2);
    EXPECT_EQ(after < before, controls[s].skip != 0 && before > 1);
    grew |= after > before, shrank |= after < before;
  }
  EXPECT_TRUE(grew && shrank) << "the scale has not settled around the largest that is finite";
  EXPECT_LT(controls.back().applied_steps, 60);
  EXPECT_GT(controls.back().applied_steps, 30);
}

}  // namespace
}  // namespace tessera
