// The data of a run, from its configuration: which files, mixed how.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "engine/training_run.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class RunDataTest : public testing::Test {
 protected:
  RunDataTest() {
    std::string name = (fs::temp_directory_path() / "tessera_run_data_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    run_.model.vocab = 100;
    run_.micro_batch = {1, 4};
  }
  ~RunDataTest() override { fs::remove_all(folder_); }

  /// A file of nothing but one token.
  std::string write(const std::string& name, char token, int64_t count) {
    std::string bytes;
    for (int64_t i = 0; i < count; i++) bytes += {token, '\0'};
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }
  /// The first token of each of the first samples.
  static std::vector<int32_t> beginning(const BatchSource& source, int64_t samples) {
    std::vector<int32_t> tokens(5), firsts;
    for (int64_t i = 0; i < samples; i++) {
      source.sample(i, tokens);
      firsts.push_back(tokens.front());
    }
    return firsts;
  }
  std::string refusal() const {
    try {
      open_run_data(run_);
    } catch (const ConfigError& error) {
      EXPECT_FALSE(error.text().legal.empty());
      return error.text().what;
    }
    return "";
  }

  fs::path folder_;
  ResolvedRun run_;
};

TEST_F(RunDataTest, SeveralDataSetsAreMixedByTheirWeightsInTrainingAndValidation) {
  run_.config.data.paths = {write("a.bin", 1, 1000), write("b.bin", 2, 100)};
  run_.config.data.weights = {0.75, 0.25};
  run_.config.data.validation_fraction = 0.1;
  const RunData data = open_run_data(run_);
  for (const BatchSource* source : {data.training.get(), data.validation.get()}) {
    const std::vector<int32_t> sets = beginning(*source, 40);
    for (auto four = sets.begin(); four != sets.end(); four += 4) EXPECT_EQ(std::count(four, four + 4, 1), 3);
  }
  EXPECT_EQ(data.validation_samples,
            11);  // of the second set the two samples of its 10 held-out tokens, then three times three of the first
}

TEST_F(RunDataTest, EachDataSetIsShuffledInAnOrderOfItsOwn) {
  std::string bytes;
  for (char token = 0; token < 100; token++) bytes += {token, '\0'};
  std::ofstream(folder_ / "a.bin", std::ios::binary) << bytes;
  run_.config.data.paths = {(folder_ / "a.bin").string(), (folder_ / "a.bin").string()};
  run_.config.data.weights = {1, 1};
  run_.config.data.validation_fraction = 0;
  const std::vector<int32_t> tokens = beginning(*open_run_data(run_).training, 48);
  std::vector<int32_t> first, second;
  for (size_t i = 0; i < tokens.size(); i += 2) first.push_back(tokens[i]), second.push_back(tokens[i + 1]);
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);  // an epoch of each
}

TEST_F(RunDataTest, OnePathIsOneDataSet) {
  run_.config.data.path = write("a.bin", 1, 1000);
  run_.config.data.validation_fraction = 0;
  const RunData data = open_run_data(run_);
  EXPECT_EQ(beginning(*data.training, 3), (std::vector<int32_t>{1, 1, 1}));
  EXPECT_EQ(data.validation, nullptr);
  EXPECT_EQ(data.validation_samples, 0);
}

TEST_F(RunDataTest, PathsAndWeightsThatDoNotFitAreRefused) {
  DataConfig& config = run_.config.data;
  EXPECT_EQ(refusal(), "data.path is not given");
  const std::string path = write("a.bin", 1, 1000);
  config.paths = {path, path};
  EXPECT_EQ(refusal(), "data.weights has 0 numbers for 2 data.paths");
  config.weights = {1, 2, 3};
  EXPECT_EQ(refusal(), "data.weights has 3 numbers for 2 data.paths");
  config.weights = {1, 0.123456789};
  EXPECT_EQ(refusal(), "data.weights = [1, 0.123456789] need more than six decimals");
  config.weights = {1, 2};
  EXPECT_EQ(refusal(), "");
  config.path = path;
  EXPECT_EQ(refusal(), "data.path is given beside data.paths or data.weights");
  config.paths.clear();
  EXPECT_EQ(refusal(), "data.path is given beside data.paths or data.weights");
  config.weights.clear();
  EXPECT_EQ(refusal(), "");
}

TEST_F(RunDataTest, TheDataSetThatIsTooShortIsNamed) {
  run_.config.data.paths = {write("long.bin", 1, 1000), write("short.bin", 2, 9)};
  run_.config.data.weights = {1, 1};
  try {
    open_run_data(run_);
    FAIL() << "a data set without a sample was taken";
  } catch (const DataError& error) {
    EXPECT_NE(error.text().what.find("short.bin holds 9 tokens"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace tessera
