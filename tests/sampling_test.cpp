#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/random.h"

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

}  // namespace tessera
