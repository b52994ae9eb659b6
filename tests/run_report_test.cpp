#include "report/run_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace tessera {

class RunReportFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("tessera_report_" + name + "_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path path() const { return directory_ / "report.json"; }
  std::filesystem::path directory_;
};

static RunReport example() {
  RunReport report;
  report.config = {{"model", "gpt2-124m \"tied\""}, {"layout", "dp 2 x pp 2"}};
  report.first_loss = 10.8251f, report.last_loss = 3.4127f;
  report.memory.add({0, MemorySpace::Host, MemoryCategory::Weights, {}, 5, 6, 7});
  report.memory.add(ProcessMemory{"RssAnon + RssShmem", {0}, 10, 20, 6, {{"allocator", 1}}});
  report.waterfall = Waterfall{0.5, {0.125, 0.25}};
  UtilizationInput input;
  input.matmul_parameters = 100, input.tokens_per_step = 3, input.seconds = 0.5, input.peak_flops = 1e4,
  input.peak_name = "measured matmul, fp32";
  report.utilization = {utilization(Convention::Causal, input), utilization(Convention::Lecture, input)};
  return report;
}

TEST_F(RunReportFile, ReadsBackAsItWasWritten) {
  write_run_report(path(), example());
  EXPECT_EQ(read_run_report(path()), example());
  write_run_report(path(), RunReport{});
  EXPECT_EQ(read_run_report(path()), RunReport{});
}

TEST(RunReport, JsonHasTheKeysThatPeopleScriptOn) {
  const Json json = example();
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"config", "losses", "memory", "processes", "waterfall_seconds", "utilization"}));
  EXPECT_EQ(json["memory"][0]["dry_run_bytes"], 6);
  EXPECT_EQ(json["waterfall_seconds"]["other"], 0.125);
  EXPECT_EQ(json["utilization"][1]["convention"], "lecture");
  EXPECT_TRUE(json["losses"]["val"].is_null());
}

TEST(RunReport, TextHoldsEverythingItKnows) {
  const std::string text = example().text();
  for (const char* part : {"layout       dp 2 x pp 2\n", "10.8251 at first, 3.4127 at last, - on held-out text", "a step takes 500 ms",
                           "measured matmul, fp32", "(lecture)", "rank 0, host memory", "process of rank 0"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in:\n" << text;
  }
}

TEST_F(RunReportFile, WritingLeavesNoTemporaryBehindAndReplacesWhatWasThere) {
  write_text_atomically(path(), "old");
  write_text_atomically(path(), "new");
  EXPECT_EQ(read_text_file(path()), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_), std::filesystem::directory_iterator()), 1);
}

TEST_F(RunReportFile, WhatCannotBeWrittenIsADataErrorAndTheOldFileSurvives) {
  write_text_atomically(path(), "old");
  std::filesystem::create_directory(path().string() + ".partial");  // in the temporary's place
  EXPECT_THROW(write_text_atomically(path(), "new"), DataError);
  EXPECT_EQ(read_text_file(path()), "old");
}

TEST_F(RunReportFile, MissingBrokenAndForeignFilesAreDataErrorsThatNameTheFile) {
  EXPECT_THROW(read_run_report(path()), DataError);
  for (const char* text : {"{\"config\": ", "{\"config\": {}}", "[]", "{\"config\": 3}"}) {
    write_text_atomically(path(), text);
    try {
      read_run_report(path());
      FAIL() << text;
    } catch (const DataError& error) {
      EXPECT_EQ(error.text().where, path().string()) << text;
    }
  }
}

}  // namespace tessera
