#include "base/random.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <set>
#include <vector>

#include "base/error.h"

namespace tessera {

using Words = std::array<uint32_t, 4>;

TEST(Philox, GivesTheKnownAnswersOfRandom123) {  // kat_vectors of Random123 1.14, philox4x32 with 10 rounds
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, DependsOnSeedPurposeNameAndStep) {
  std::set<Words> first_words;
  for (uint64_t seed : {0, 1})
    for (RandomPurpose purpose : {RandomPurpose::Init, RandomPurpose::DataOrder})
      for (const char* name : {"", "blocks.0.weight", "blocks.1.weight"})
        for (uint64_t step : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32})
          first_words.insert(RandomStream(seed, purpose, name, step).words(0));
  EXPECT_EQ(first_words.size(), 2u * 2 * 3 * 3);
  EXPECT_EQ(RandomStream(7, RandomPurpose::Init, "w", 3).words(11), RandomStream(7, RandomPurpose::Init, "w", 3).words(11));
}

TEST(RandomStream, UsesBothHalvesOfTheCounter) {
  const RandomStream stream(1, RandomPurpose::Sample);
  EXPECT_NE(stream.words(5), stream.words(5 + (uint64_t{1} << 32)));
}

TEST(RandomStream, UniformNumbersFillTheirCellsEvenly) {
  const RandomStream stream(3, RandomPurpose::Sample);
  const int cells = 64, draws = 64 * 4096;
  std::vector<int> counts(cells);
  for (int i = 0; i < draws; i++) {
    const double u = stream.uniform(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    counts[static_cast<int>(u * cells)]++;
  }
  double chi_square = 0;
  for (int count : counts) chi_square += std::pow(count - draws / cells, 2) / (draws / cells);
  EXPECT_LT(std::abs(chi_square - (cells - 1)), 4 * std::sqrt(2.0 * (cells - 1)));  // mean k - 1, variance 2 (k - 1): four deviations
}

TEST(NormalQuantile, IsTheInverseOfTheNormalDistributionUpToTheFarTails) {
  int checked = 0;
  for (double p = 0x1p-54; p < 0.5; p *= 1.01) {
    const double x = normal_quantile(p);
    // A relative error e of x changes P(x) by about x^2 e, in erfc's argument as in the quantile.
    EXPECT_LE(std::abs(0.5 * std::erfc(-x / std::sqrt(2.0)) - p) / p, 8 * 0x1p-52 * (1 + x * x)) << "p = " << p;
    checked++;
  }
  EXPECT_GT(checked, 3000);
  for (double p : {0.5, 0.07, 0.3, 0.925, 0.99}) EXPECT_NEAR(0.5 * std::erfc(-normal_quantile(p) / std::sqrt(2.0)), p, 1e-15);
}

TEST(RandomStream, NormalNumbersHaveTheMomentsAndTailsOfTheNormalDistribution) {
  const RandomStream stream(5, RandomPurpose::Init, "wte.weight");
  const int draws = 1 << 20;
  double moments[5] = {};
  int beyond[5] = {};  // |x| > 1, 2, 3, 4
  for (int i = 0; i < draws; i++) {
    const double x = stream.normal(i);
    double power = 1;
    for (double& moment : moments) {
      moment += power / draws;
      power *= x;
    }
    for (int limit = 1; limit <= 4; limit++) beyond[limit] += std::abs(x) > limit;
  }
  // Variances of the sample moments: (E x^2k - (E x^k)^2) / draws, with E x^2, x^4, x^6, x^8 = 1, 3, 15, 105. Bounds: five deviations.
  const double deviation = 1 / std::sqrt(draws);
  EXPECT_NEAR(moments[1], 0, 5 * deviation);
  EXPECT_NEAR(moments[2], 1, 5 * std::sqrt(2) * deviation);
  EXPECT_NEAR(moments[3], 0, 5 * std::sqrt(15) * deviation);
  EXPECT_NEAR(moments[4], 3, 5 * std::sqrt(96) * deviation);
  for (int limit = 1; limit <= 4; limit++) {
    const double expected = draws * std::erfc(limit / std::sqrt(2.0));
    EXPECT_NEAR(beyond[limit], expected, 5 * std::sqrt(expected)) << limit;
  }
}

TEST(RandomStream, NormalNumbersAreTheSameBitsEverywhere) {  // written down once: compilers, libraries and devices must agree
  const RandomStream stream(42, RandomPurpose::Init, "blocks.0.attention.q_proj.weight");
  const uint32_t bits[] = {0xbd9da60a, 0x3dfd36f4, 0xbf063190, 0xbf0101a7, 0xbfcd2485, 0x3e0b9a02, 0xbfd83e50, 0x3f9ca20b};
  for (uint64_t i = 0; i < std::size(bits); i++)
    EXPECT_EQ(std::bit_cast<uint32_t>(stream.normal(i)), bits[i]) << std::hex << std::bit_cast<uint32_t>(stream.normal(i));
}

TEST(RandomStream, BelowReachesEveryIntegerEvenly) {
  const RandomStream stream(9, RandomPurpose::Sample);
  std::vector<int> counts(10);
  for (int i = 0; i < 100000; i++) counts.at(stream.below(i, 10))++;
  for (int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(9000.0));
  EXPECT_EQ(stream.below(0, 1), 0u);
}

TEST(Permute, VisitsEveryElementOnceForEverySize) {
  for (uint64_t n : {1, 2, 3, 4, 5, 15, 16, 17, 100, 255, 257, 1000, 65536, 65537}) {
    const RandomStream stream(n, RandomPurpose::DataOrder);
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; i++) {
      const uint64_t image = permute(stream, i, n);
      ASSERT_LT(image, n);
      ASSERT_FALSE(seen[image]) << n;
      seen[image] = true;
    }
  }
}

TEST(Permute, SendsTheFirstElementEverywhereWithEqualChance) {
  const int n = 10, streams = 20000;
  std::vector<int> counts(n);
  for (int seed = 0; seed < streams; seed++) counts[permute(RandomStream(seed, RandomPurpose::DataOrder), 0, n)]++;
  for (int count : counts) EXPECT_NEAR(count, streams / n, 5 * std::sqrt(streams * 0.1 * 0.9));
}

TEST(Permute, KeepsNoNeighboursTogether) {
  const RandomStream stream(1, RandomPurpose::DataOrder);
  const uint64_t n = 10000;
  int neighbours = 0;
  for (uint64_t i = 0; i + 1 < n; i++) neighbours += permute(stream, i, n) + 1 == permute(stream, i + 1, n);
  EXPECT_LE(neighbours, 6);  // one expected, Poisson: more than six in 1 of 12,000 shuffles
}

TEST(Permute, ChangesWithTheEpochAndHandlesHugeSizes) {
  const uint64_t n = uint64_t{1} << 62;
  const RandomStream first(1, RandomPurpose::DataOrder, "", 0), second(1, RandomPurpose::DataOrder, "", 1);
  EXPECT_NE(permute(first, 12345, n), permute(second, 12345, n));
  EXPECT_LT(permute(first, n - 1, n), n);
  EXPECT_THROW(permute(first, n, n), InternalError);
  EXPECT_THROW(permute(first, 0, n + 1), InternalError);
  EXPECT_THROW(permute(first, 0, 0), InternalError);
}

TEST(RandomStream, HalfWordsAreTheWordsInHalves) {
  const RandomStream stream(7, RandomPurpose::Rounding, "a", 3);
  for (uint64_t i = 0; i < 4; i++) {
    const auto words = stream.words(i);
    EXPECT_EQ(words, philox4x32({static_cast<uint32_t>(i), 0, 3, 0}, stream.key()));
    EXPECT_EQ(words, RandomStream(7, RandomPurpose::Rounding, "a", 9).at(3).words(i));
    for (uint64_t w = 0; w < 4; w++) {
      EXPECT_EQ(stream.half_word(8 * i + 2 * w), words[w] & 0xFFFF);
      EXPECT_EQ(stream.half_word(8 * i + 2 * w + 1), words[w] >> 16);
    }
  }
}

}  // namespace tessera
