// A tiny gpt2 and a tiny llama against PyTorch: golden/make_golden.py says what was computed.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/golden.h"

namespace tessera {
namespace {

constexpr int64_t steps = 20;
const std::vector<std::string> model_and_optimizer = {"model.layers=2",
                                                      "model.hidden=24",
                                                      "model.head_dim=8",
                                                      "model.vocab=89",
                                                      "model.context=16",
                                                      "train.batch_size=4",
                                                      "train.micro_batch_size=2",
                                                      "optimizer.learning_rate=1e-2",
                                                      "optimizer.final_fraction=0.1",
                                                      "optimizer.warmup_steps=4",
                                                      "optimizer.weight_decay=0.1",
                                                      "optimizer.beta1=0.9",
                                                      "optimizer.beta2=0.95",
                                                      "optimizer.epsilon=1e-8",
                                                      "parallel.threads=1"};
const std::vector<std::string> gpt2 = {"model.heads=3", "train.clip=1.2"};
const std::vector<std::string> llama = {"model.architecture=llama", "model.heads=4", "model.kv_heads=2", "model.ffn=40",
                                        "model.tied=false",         "train.clip=1.5"};

struct GoldenCase {
  const char *name, *file;
  int ranks;
  std::vector<std::string> model, layout;
  friend void PrintTo(const GoldenCase& golden, std::ostream* out) { *out << golden.name; }
};

class GoldenRanks : public testing::TestWithParam<GoldenCase> {
 protected:
  TinyRun first_steps(int64_t count) const {
    TinyRun run{.sets = model_and_optimizer, .ranks = GetParam().ranks, .steps = count, .data = &golden_};
    run.sets.push_back("train.steps=" + std::to_string(steps));
    for (const auto* sets : {&GetParam().model, &GetParam().layout}) run.sets.insert(run.sets.end(), sets->begin(), sets->end());
    run.start = [this](Trainer& trainer) { golden_.start(trainer); };
    return run;
  }
  const Golden golden_{GetParam().file};
};

TEST_P(GoldenRanks, LossesOfTwentyStepsAreThoseOfPyTorch) {
  const TinyRun run = first_steps(steps);
  const std::vector<double> expected = golden_.losses(), norms = golden_.norms();
  ASSERT_EQ(std::ssize(expected), steps);
  const double clip = resolve_tiny(run).config.train.clip;
  ASSERT_GT(*std::max_element(norms.begin(), norms.end()), clip) << "no step is clipped";
  ASSERT_LT(*std::min_element(norms.begin(), norms.end()), clip) << "every step is clipped";
  const std::vector<double> losses = run_tiny(run).losses;
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t s = 0; s < losses.size(); s++) {
    EXPECT_LE(std::abs(losses[s] - expected[s]), 1e-5 * expected[s])
        << "step " << s + 1 << ": " << losses[s] << ", PyTorch " << expected[s];
  }
}

TEST_P(GoldenRanks, GradientsOfStepOneAreThoseOfPyTorch) {
  const auto gradients = run_tiny(first_steps(1)).first_gradients;
  std::map<std::string, std::vector<float>> expected;
  for (const std::string& name : golden_.gradient_names()) expected[name] = golden_.gradient(name);
  EXPECT_EQ(gradients.size(), expected.size());
  EXPECT_LE(worst_tensor_error(gradients, expected), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenRanks,
                         testing::Values(GoldenCase{"gpt2", "gpt2_tiny", 1, gpt2, {}},
                                         GoldenCase{"gpt2_pp2", "gpt2_tiny", 2, gpt2, {"parallel.pp=2"}},
                                         GoldenCase{"gpt2_dp2_zero1", "gpt2_tiny", 2, gpt2, {"parallel.dp=2", "parallel.zero=1"}},
                                         GoldenCase{"llama", "llama_tiny", 1, llama, {}},
                                         GoldenCase{"llama_pp2", "llama_tiny", 2, llama, {"parallel.pp=2"}},
                                         GoldenCase{"llama_dp2_zero1", "llama_tiny", 2, llama, {"parallel.dp=2", "parallel.zero=1"}}),
                         [](const auto& golden) { return golden.param.name; });

}  // namespace
}  // namespace tessera
