#include "tokenizer/loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>
#include <set>
#include <thread>

#include "base/error.h"
#include "tokenizer/indexed_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int32_t>;

class LoaderTest : public testing::Test {
 protected:
  LoaderTest() {
    std::string name = (fs::temp_directory_path() / "tessera_loader_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~LoaderTest() override { fs::remove_all(folder_); }

  /// Documents of these lengths; token i of the file is i, so that a sample shows where it lies.
  std::shared_ptr<const IndexedFile> documents(const std::vector<int64_t>& lengths) {
    const std::string prefix = (folder_ / "data").string();
    IndexedFileWriter writer(prefix, 1 << 20);
    int32_t first = 0;
    for (int64_t length : lengths) {
      Tokens tokens(length);
      std::iota(tokens.begin(), tokens.end(), first);
      first += static_cast<int32_t>(length);
      writer.add_tokens(tokens);
      writer.end_document();
    }
    writer.finish();
    return std::make_shared<const IndexedFile>(prefix, 1 << 20);
  }
  static Tokens sample(const SampleSource& source, int64_t i) {
    Tokens tokens(source.sequence_length() + 1, -1);
    source.sample(i, tokens);
    return tokens;
  }
  static std::string refusal(const IndexedFile& file, double fraction, int64_t sequence_length) {
    try {
      split_tokens(file, fraction, sequence_length);
    } catch (const DataError& error) {
      return error.text().legal;
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(LoaderTest, SamplesPredictEveryTokenButTheFirstOnce) {
  const auto file = documents({5, 30, 1, 14});  // 50 tokens
  for (int64_t T : {1, 3, 7, 49}) {
    const SampleSource source(file, {0, 50}, T, std::nullopt);
    EXPECT_EQ(source.samples_per_epoch(), 49 / T);
    for (int64_t k = 0; k < source.samples_per_epoch(); k++) {
      Tokens expected(T + 1);
      std::iota(expected.begin(), expected.end(), static_cast<int32_t>(k * T));
      EXPECT_EQ(sample(source, k), expected);
    }
  }
}

TEST_F(LoaderTest, ARangeOfTokensIsNeverLeft) {
  const auto file = documents({100});
  const SampleSource source(file, {37, 58}, 5, std::nullopt);  // 21 tokens: the last sample ends with the range
  EXPECT_EQ(source.samples_per_epoch(), 4);
  EXPECT_EQ(sample(source, 0).front(), 37);
  EXPECT_EQ(sample(source, 3).back(), 57);
  EXPECT_EQ(SampleSource(file, {37, 57}, 5, std::nullopt).samples_per_epoch(), 3);
}

TEST_F(LoaderTest, ValidationComesInOrderAndRepeats) {
  const SampleSource source(documents({50}), {0, 50}, 7, std::nullopt);
  for (int64_t i = 0; i < 14; i++) EXPECT_EQ(source.position(i), i % 7 * 7);
}

TEST_F(LoaderTest, EachEpochTakesEverySampleExactlyOnceInItsOwnOrder) {
  const auto file = documents({400, 603});
  for (int64_t T : {1002, 501, 10, 1}) {  // 1, 2, 100 and 1002 samples
    const SampleSource source(file, {0, 1003}, T, 42);
    const int64_t samples = source.samples_per_epoch();
    EXPECT_EQ(samples, 1002 / T);
    std::set<std::vector<int64_t>> orders;
    for (int64_t epoch = 0; epoch < 5; epoch++) {
      std::vector<int64_t> order;
      for (int64_t i = 0; i < samples; i++) order.push_back(source.position(epoch * samples + i));
      orders.insert(order);
      std::sort(order.begin(), order.end());
      for (int64_t k = 0; k < samples; k++) ASSERT_EQ(order[k], k * T);
    }
    if (samples >= 100) {
      EXPECT_EQ(orders.size(), 5u);
    }
  }
}

TEST_F(LoaderTest, TheOrderIsShuffled) {
  const SampleSource source(documents({1001}), {0, 1001}, 1, 42);
  int64_t in_place = 0, in_sequence = 0;
  for (int64_t i = 0; i + 1 < 1000; i++) {
    in_place += source.position(i) == i;
    in_sequence += source.position(i + 1) == source.position(i) + 1;
  }
  EXPECT_LT(in_place, 20);  // one each is expected of a random order
  EXPECT_LT(in_sequence, 20);
}

TEST_F(LoaderTest, AnotherSeedGivesAnotherOrderAndTheSameSeedTheSame) {
  const auto file = documents({1001});
  const SampleSource source(file, {0, 1001}, 10, 1), same(file, {0, 1001}, 10, 1), other(file, {0, 1001}, 10, 2);
  int64_t equal = 0;
  for (int64_t i = 0; i < 300; i++) {
    EXPECT_EQ(source.position(i), same.position(i));
    equal += source.position(i) == other.position(i);
  }
  EXPECT_LT(equal, 100);
}

TEST_F(LoaderTest, AResumedRunSeesWhatAContinuedOneSees) {
  const auto file = documents({1001});
  std::vector<Tokens> continued, resumed;
  {
    const SampleSource source(file, {0, 1001}, 10, 3);
    for (int64_t i = 0; i < 250; i++) continued.push_back(sample(source, i));
  }
  for (int64_t start : {0, 130}) {  // two runs, the second starts in the second epoch, and reads its samples backwards
    const SampleSource source(file, {0, 1001}, 10, 3);
    std::vector<Tokens> part;
    for (int64_t i = start == 0 ? 129 : 249; i >= start; i--) part.push_back(sample(source, i));
    resumed.insert(resumed.end(), part.rbegin(), part.rend());
  }
  EXPECT_EQ(continued, resumed);
}

TEST_F(LoaderTest, ThreadsReadTheSameSamples) {
  const SampleSource source(documents({10001}), {0, 10001}, 10, 3);
  std::vector<Tokens> alone(1000), together(1000);
  for (int64_t i = 0; i < 1000; i++) alone[i] = sample(source, i);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      for (int64_t i = t; i < 1000; i += 4) together[i] = sample(source, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(alone, together);
}

TEST_F(LoaderTest, ValidationIsTheLastDocumentsAndDisjointFromTraining) {
  const auto file = documents({400, 500, 60, 48});  // 1008 tokens
  const DataSplit split = split_tokens(*file, 0.1, 16);
  EXPECT_TRUE(split.between_documents);
  EXPECT_EQ(split.training.begin, 0);
  EXPECT_EQ(split.training.end, 900);
  EXPECT_EQ(split.validation.begin, 900);
  EXPECT_EQ(split.validation.end, 1008);
  const SampleSource training(file, split.training, 16, 1), validation(file, split.validation, 16, std::nullopt);
  std::set<int32_t> trained;
  for (int64_t i = 0; i < training.samples_per_epoch(); i++) {
    const Tokens tokens = sample(training, i);
    trained.insert(tokens.begin(), tokens.end());
  }
  EXPECT_EQ(*trained.rbegin(), 896);  // 56 samples of 16, and the last token predicted
  for (int64_t i = 0; i < validation.samples_per_epoch(); i++) {
    for (int32_t token : sample(validation, i)) EXPECT_EQ(trained.count(token), 0u);
  }
}

TEST_F(LoaderTest, ADocumentIsCutWhenNoneEndsNearTheFraction) {
  const DataSplit one = split_tokens(*documents({1000}), 0.1, 16);
  EXPECT_FALSE(one.between_documents);
  EXPECT_EQ(one.training.end, 900);
  EXPECT_EQ(one.validation.begin, 900);
  EXPECT_EQ(one.validation.end, 1000);
  EXPECT_EQ(split_tokens(*documents({500, 500}), 0.1, 16).training.end, 900);
  EXPECT_EQ(split_tokens(*documents({990, 10}), 0.1, 4).training.end, 900);
  EXPECT_EQ(split_tokens(*documents({800, 200}), 0.1, 4).training.end, 800);  // twice the size is still near
  EXPECT_EQ(split_tokens(*documents({950, 50}), 0.1, 4).training.end, 950);
}

TEST_F(LoaderTest, NoValidationTakesEverything) {
  const DataSplit split = split_tokens(*documents({100}), 0, 16);
  EXPECT_EQ(split.training.tokens(), 100);
  EXPECT_EQ(split.validation.tokens(), 0);
}

TEST_F(LoaderTest, TooLittleTextNamesWhatIsLegal) {
  const auto file = documents({60, 40});
  EXPECT_EQ(refusal(*file, 0.5, 49), "");
  EXPECT_EQ(refusal(*file, 0.5, 50), "at least 102 tokens");
  EXPECT_EQ(refusal(*file, 0, 99), "");
  EXPECT_EQ(refusal(*file, 0, 100), "at least 101 tokens");
  EXPECT_EQ(refusal(*file, 0.05, 9), "a fraction from 0.100000 to 0.900000, or 0");
  EXPECT_EQ(refusal(*file, 0.95, 9), "a fraction from 0.100000 to 0.900000, or 0");
  EXPECT_EQ(refusal(*file, 0.1, 9), "");
  EXPECT_EQ(refusal(*file, 0.9, 9), "");
  for (double fraction : {-0.1, 1.0, 2.0, std::numeric_limits<double>::quiet_NaN()}) EXPECT_NE(refusal(*file, fraction, 9), "") << fraction;
}

TEST_F(LoaderTest, MisuseIsAnInternalError) {
  const auto file = documents({100});
  EXPECT_THROW(SampleSource(file, {0, 10}, 10, 1), InternalError);
  EXPECT_THROW(SampleSource(file, {0, 101}, 10, 1), InternalError);
  const SampleSource source(file, {0, 100}, 10, 1);
  Tokens ten(10);
  EXPECT_THROW(source.sample(0, ten), InternalError);
  EXPECT_THROW(source.position(-1), InternalError);
}

}  // namespace
}  // namespace tessera
