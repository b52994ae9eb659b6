#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/random.h"
#include "tests/tiny_run.h"

namespace tessera {

namespace {

const std::vector<float> logits = {std::log(0.5f), std::log(0.05f), std::log(0.3f), std::log(0.15f)};

std::map<int32_t, double> shares(const SamplingOptions& options) {
  std::map<int32_t, double> counts;
  constexpr int draws = 10000;
  for (int i = 0; i < draws; i++) counts[pick_token(logits, options, (i + 0.5) / draws)] += 1.0 / draws;
  return counts;
}

}  // namespace

TEST(Sampling, TemperatureZeroIsTheLikeliestToken) {
  for (double uniform : {0.0, 0.5, 0.999}) EXPECT_EQ(pick_token(logits, {.temperature = 0}, uniform), 0);
}

TEST(Sampling, TemperatureOneDrawsFromTheSoftmax) {
  auto drawn = shares({.temperature = 1});
  EXPECT_NEAR(drawn[0], 0.5, 1e-3);
  EXPECT_NEAR(drawn[1], 0.05, 1e-3);
  EXPECT_NEAR(drawn[2], 0.3, 1e-3);
  EXPECT_NEAR(drawn[3], 0.15, 1e-3);
}

TEST(Sampling, TopKKeepsTheKLikeliestAndRenormalizes) {
  auto drawn = shares({.temperature = 1, .top_k = 2});
  EXPECT_EQ(drawn.size(), 2u);
  EXPECT_NEAR(drawn[0], 0.5 / 0.8, 1e-3);
  EXPECT_NEAR(drawn[2], 0.3 / 0.8, 1e-3);
}

TEST(Sampling, TopPKeepsTheFewestThatReachP) {
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0.79}).size(), 2u);
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0.81}).size(), 3u);
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0}).size(), 1u);
}

TEST(Sampling, ALowTemperatureSharpens) { EXPECT_GT(shares({.temperature = 0.5})[0], 0.6); }

TEST(NextLogits, AreThoseThatTheLossOfASequenceReads) {
  run_tiny({.sets = {"train.batch_size=1", "train.micro_batch_size=1"}, .steps = 3, .finish = [](Trainer& trainer) {
              const RandomSamples data(resolve_tiny({}).model.vocab);
              std::vector<int32_t> tokens(resolve_tiny({}).micro_batch.T + 1);
              data.sample(0, tokens);
              double sum = 0;
              for (size_t t = 1; t < tokens.size(); t++) {
                double exponentials = 0;
                const std::vector<float> next = trainer.next_logits(std::span(tokens).first(t));
                for (float logit : next) exponentials += std::exp(static_cast<double>(logit));
                sum += std::log(exponentials) - next[tokens[t]];
              }
              const double loss = sum / static_cast<double>(tokens.size() - 1);
              EXPECT_NEAR(trainer.evaluate(&data, 1) / loss, 1, 1e-5);
            }});
}

}  // namespace tessera
