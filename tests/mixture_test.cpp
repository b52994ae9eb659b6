#include "tokenizer/mixture.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "tokenizer/indexed_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int32_t>;
using Weights = std::vector<double>;

/// Integer weights, so that shares can be checked exactly: even, uneven, many small ones beside a large one, and drawn ones.
std::vector<std::vector<int64_t>> many_weights() {
  std::vector<std::vector<int64_t>> all = {{1}, {1, 1}, {7, 2, 1}, {1, 1, 1, 1, 1}, {999, 1}, {1, 1, 2, 3, 5, 8, 13, 21, 34, 55}};
  all.push_back(std::vector<int64_t>(40, 1));
  all.back().front() = 400;
  for (uint64_t seed = 0; seed < 60; seed++) {
    const RandomStream stream(seed, RandomPurpose::Sample);
    std::vector<int64_t> drawn(2 + stream.below(0, 12));
    for (size_t d = 0; d < drawn.size(); d++) drawn[d] = static_cast<int64_t>(1 + stream.below(1 + d, 1 + stream.below(100 + d, 300)));
    all.push_back(drawn);
  }
  return all;
}

Weights as_numbers(const std::vector<int64_t>& weights) { return {weights.begin(), weights.end()}; }

class MixtureTest : public testing::Test {
 protected:
  MixtureTest() {
    std::string name = (fs::temp_directory_path() / "tessera_mixture_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~MixtureTest() override { fs::remove_all(folder_); }

  /// A set of `samples` samples of one token to predict; the tokens say which set and which sample it is.
  SampleSource set(int64_t number, int64_t samples, std::optional<uint64_t> seed) {
    const std::string prefix = (folder_ / std::to_string(number)).string();
    Tokens tokens(samples + 1);
    std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(1000 * number));
    IndexedFileWriter writer(prefix, 100000);
    writer.add_tokens(tokens);
    writer.finish();
    return SampleSource(std::make_shared<const IndexedFile>(prefix, 100000), {0, samples + 1}, 1, seed, number);
  }
  MixedSource mixed(const std::vector<int64_t>& samples, const Weights& weights, std::optional<uint64_t> seed) {
    std::vector<SampleSource> sources;
    for (size_t d = 0; d < samples.size(); d++) sources.push_back(set(static_cast<int64_t>(d), samples[d], seed));
    return MixedSource(std::move(sources), weights);
  }
  static int32_t first_token(const MixedSource& source, int64_t i) {
    Tokens tokens(2);
    source.sample(i, tokens);
    return tokens.front();
  }

  fs::path folder_;
};

std::string refusal(const Weights& weights) {
  try {
    MixOrder order(weights);
  } catch (const ConfigError& error) {
    EXPECT_FALSE(error.text().legal.empty());
    return error.what();
  }
  return "";
}

TEST(MixOrder, SharesFollowTheWeightsWithinOneSampleAtEveryPrefix) {
  for (const std::vector<int64_t>& weights : many_weights()) {
    const MixOrder order(as_numbers(weights));
    const int64_t sum = std::accumulate(weights.begin(), weights.end(), int64_t{0});
    std::vector<int64_t> taken(weights.size());
    for (int64_t n = 1; n <= 2 * sum + 7; n++) {
      taken[order.place(n - 1).set]++;
      for (size_t d = 0; d < weights.size(); d++) {
        ASSERT_LT(std::abs(taken[d] * sum - n * weights[d]), sum) << "set " << d << " of " << weights.size() << ", " << n << " samples";
      }
    }
  }
}

TEST(MixOrder, EachSetTakesItsSamplesOneAfterTheOther) {
  for (const std::vector<int64_t>& weights : many_weights()) {
    const MixOrder order(as_numbers(weights));
    const int64_t sum = std::accumulate(weights.begin(), weights.end(), int64_t{0});
    std::vector<int64_t> next(weights.size());
    for (int64_t i = 0; i < 3 * sum; i++) {
      const MixOrder::Place place = order.place(i);
      ASSERT_EQ(place.index, next[place.set]++);
    }
    const int64_t far = int64_t{1} << 40;  // and so on, without those in between
    EXPECT_EQ(order.place(far * sum).index, far * weights[order.place(0).set]);
  }
}

TEST(MixOrder, TheUnitOfTheWeightsDoesNotMatter) {
  const MixOrder integers({7, 2, 1});
  for (const Weights& weights : {Weights{0.7, 0.2, 0.1}, Weights{70, 20, 10}, Weights{0.0007, 0.0002, 0.0001}, Weights{7e9, 2e9, 1e9}}) {
    const MixOrder order(weights);
    for (int64_t i = 0; i < 30; i++) {
      EXPECT_EQ(order.place(i).set, integers.place(i).set);
      EXPECT_EQ(order.place(i).index, integers.place(i).index);
    }
  }
}

TEST(MixOrder, WeightsWithoutAnExactShareAreRefused) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const Weights& weights : {Weights{1, 0}, Weights{1, -1}, Weights{infinity, 1}, Weights{nan, 1}})
    EXPECT_NE(refusal(weights).find("not all above 0 and finite"), std::string::npos) << refusal(weights);
  for (const Weights& weights : {Weights{0.33333333, 0.66666667}, Weights{1, 1e-7}})
    EXPECT_NE(refusal(weights).find("more than six decimals"), std::string::npos) << refusal(weights);
  EXPECT_NE(refusal({999999.5, 0.5}).find("= [999999.5, 0.5] repeat after 2000000 samples"), std::string::npos) << refusal({999999.5, 0.5});
  EXPECT_EQ(refusal({0.999999, 0.000001}), "");
  EXPECT_EQ(refusal({1e12, 3e12 / 4}), "");
  EXPECT_THROW(MixOrder({}), InternalError);
}

TEST(MixOrder, TheSamplesBeforeARepeatAreCountedExactly) {
  for (const std::vector<int64_t>& weights : many_weights()) {
    const MixOrder order(as_numbers(weights));
    const RandomStream stream(weights.size(), RandomPurpose::Sample);
    for (uint64_t draw = 0; draw < 5; draw++) {
      std::vector<int64_t> samples(weights.size());
      for (size_t d = 0; d < samples.size(); d++) samples[d] = static_cast<int64_t>(1 + stream.below(100 * draw + d, 50));
      int64_t count = 0;
      while (count < 1000000 && order.place(count).index < samples[order.place(count).set]) count++;
      EXPECT_EQ(order.samples_before_repeat(samples), count);
    }
  }
}

TEST_F(MixtureTest, OneSetIsThatSet) {
  const SampleSource alone = set(0, 100, 42);
  const MixedSource source({alone}, {0.3});
  EXPECT_EQ(source.samples_per_epoch(), 100);
  for (int64_t i = 0; i < 250; i++) EXPECT_EQ(first_token(source, i), alone.position(i));
}

TEST_F(MixtureTest, EachSetGivesEverySampleOfEachOfItsEpochsExactlyOnce) {
  const std::vector<int64_t> samples = {7, 100, 31};
  const std::vector<size_t> shares = {500, 300, 200};
  const MixedSource source = mixed(samples, {0.5, 0.3, 0.2}, 42);
  std::vector<Tokens> taken(3);
  for (int64_t i = 0; i < 1000; i++) {
    const int32_t token = first_token(source, i);
    taken[token / 1000].push_back(token % 1000);
  }
  for (size_t d = 0; d < 3; d++) {
    EXPECT_EQ(taken[d].size(), shares[d]);
    for (auto epoch = taken[d].begin(); taken[d].end() - epoch >= samples[d]; epoch += samples[d]) {
      Tokens sorted(epoch, epoch + samples[d]), whole(samples[d]);
      std::sort(sorted.begin(), sorted.end());
      std::iota(whole.begin(), whole.end(), 0);
      ASSERT_EQ(sorted, whole) << "set " << d;
    }
  }
}

TEST_F(MixtureTest, SetsOfOneSizeHaveOrdersOfTheirOwn) {
  const MixedSource source = mixed({500, 500}, {1, 1}, 42);
  int64_t equal = 0;
  for (int64_t i = 0; i < 1000; i += 2) equal += first_token(source, i) % 1000 == first_token(source, i + 1) % 1000;
  EXPECT_LT(equal, 20);  // one is expected of two random orders
}

TEST_F(MixtureTest, AResumedRunAndAnyNumberOfThreadsSeeTheSameSamples) {
  const std::vector<int64_t> samples = {50, 300};
  Tokens continued, resumed, together(400);
  {
    const MixedSource source = mixed(samples, {1, 3}, 7);
    for (int64_t i = 0; i < 400; i++) continued.push_back(first_token(source, i));
  }
  for (const auto& [begin, end] : {std::pair{0, 137}, {137, 400}}) {
    const MixedSource source = mixed(samples, {1, 3}, 7);
    for (int64_t i = begin; i < end; i++) resumed.push_back(first_token(source, i));
  }
  const MixedSource source = mixed(samples, {1, 3}, 7);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 3; t++) {
    threads.emplace_back([&, t] {
      for (int64_t i = t; i < 400; i += 3) together[i] = first_token(source, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(resumed, continued);
  EXPECT_EQ(together, continued);
}

TEST_F(MixtureTest, HeldOutTextOfSeveralSetsComesInOrderAndAnEpochRepeatsNone) {
  const MixedSource source = mixed({3, 100}, {1, 2}, std::nullopt);
  Tokens tokens;
  for (int64_t i = 0; i < source.samples_per_epoch(); i++) tokens.push_back(first_token(source, i));
  Tokens small, large;
  std::partition_copy(tokens.begin(), tokens.end(), std::back_inserter(small), std::back_inserter(large),
                      [](int32_t t) { return t < 1000; });
  EXPECT_EQ(small, (Tokens{0, 1, 2}));
  for (size_t i = 0; i < large.size(); i++) EXPECT_EQ(large[i], 1000 + static_cast<int32_t>(i));
  EXPECT_LT(first_token(source, source.samples_per_epoch()), 1000);  // the small set begins again
}

}  // namespace
}  // namespace tessera
