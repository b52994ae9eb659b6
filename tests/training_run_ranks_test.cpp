// Whole runs: files, resume, faults. Small models on a token file made here.
#include "engine/training_run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "engine/checkpoint.h"
#include "report/metrics.h"
#include "report/run_report.h"
#include "tests/tiny_run.h"
#include "tokenizer/indexed_file.h"

namespace tessera {

namespace {

class TrainingRunRanks : public testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        std::filesystem::path(testing::TempDir()) / "tessera_training_run" / testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    IndexedFileWriter writer((directory_ / "text").string(), 96);
    for (int document = 0; document < 20; document++) {
      std::vector<int32_t> tokens(200);
      for (size_t i = 0; i < tokens.size(); i++) tokens[i] = static_cast<int32_t>((i * i + 7 * i * static_cast<size_t>(document)) % 96);
      writer.add_tokens(tokens);
      writer.end_document();
    }
    writer.finish();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  ResolvedRun resolved(std::vector<std::string> sets, int ranks) const {
    sets.push_back("data.path=" + (directory_ / "text").string());
    TinyRun tiny{.sets = std::move(sets), .ranks = ranks, .steps = 10};
    return resolve_tiny(tiny);
  }
  TrainingResult train(const std::vector<std::string>& sets, int ranks, bool resume, const std::string& name = "run") {
    const ResolvedRun run = resolved(sets, ranks);
    const RunData data = open_run_data(run);
    std::FILE* quiet = std::tmpfile();
    Messages messages({.file = quiet});
    TrainingOptions options;
    options.run_dir = directory_ / name;
    options.resume = resume;
    TrainingResult result;
    run_thread_ranks(ranks, [&](HostGroup& host) {
      const TrainingResult own = run_training(run, data, options, host, messages, nullptr);
      if (host.rank() == 0) result = own;
    });
    std::fclose(quiet);
    return result;
  }
  std::vector<StepMetrics> metrics(const std::string& name = "run") const { return MetricsLog::read(RunFiles(directory_ / name).metrics); }

  std::filesystem::path directory_;
};

}  // namespace

TEST_F(TrainingRunRanks, ARunWritesItsFilesAndEachStepStandsOnce) {
  EXPECT_TRUE(train({"train.steps=10"}, 1, false).finished());
  const std::vector<StepMetrics> rows = metrics();
  ASSERT_EQ(rows.size(), 10u);
  for (size_t i = 0; i < rows.size(); i++) EXPECT_EQ(rows[i].step, static_cast<int64_t>(i) + 1);
  EXPECT_TRUE(rows.back().val_loss.has_value());
  const RunFiles files(directory_ / "run");
  EXPECT_EQ(CheckpointStore::list(files.checkpoints), std::vector<int64_t>{10});
  const RunReport report = read_run_report(files.report);
  EXPECT_EQ(report.last_loss, rows.back().loss);
  for (const MemoryRow& row : report.memory.rows()) EXPECT_EQ(row.dry_run_bytes, row.measured_bytes);
}

TEST_F(TrainingRunRanks, TheReportSharesSavesOutOverTheSteps) {
  train({"parallel.pp=2", "train.steps=10", "checkpoint.every_steps=5"}, 2, false);
  const std::optional<Waterfall> waterfall = read_run_report(RunFiles(directory_ / "run").report).waterfall;
  ASSERT_TRUE(waterfall.has_value());
  EXPECT_GT((*waterfall)[Bar::Checkpoint], 0);
  EXPECT_GT((*waterfall)[Bar::ExposedControl], 0);
  EXPECT_GE(waterfall->other(), 0);
}

TEST_F(TrainingRunRanks, TheReportNamesWhatTheProcessHoldsBeyondTheArena) {
  train({"parallel.pp=2"}, 2, false);
  const RunReport report = read_run_report(RunFiles(directory_ / "run").report);
  ASSERT_EQ(report.memory.processes().size(), 1u);
  const ProcessMemory& process = report.memory.processes().front();
  ASSERT_EQ(process.remainder.size(), 2u);
  EXPECT_EQ(process.remainder[0].name, "libraries and start-up");
  EXPECT_GT(process.remainder[0].bytes, 0);
  EXPECT_LT(process.remainder[0].bytes, process.peak_bytes);  // the arena came later
  EXPECT_EQ(process.remainder[1].name, "allocator since then");
}

TEST_F(TrainingRunRanks, AStoppedAndResumedRunHasTheSameMetricsAsAnUninterruptedOne) {
  for (const auto& [sets, ranks] :
       std::vector<std::pair<std::vector<std::string>, int>>{{{}, 1}, {{"parallel.dp=2", "parallel.pp=2", "parallel.zero=1"}, 4}}) {
    const std::string whole = "whole" + std::to_string(ranks), cut = "cut" + std::to_string(ranks);
    std::vector<std::string> all = sets, half = sets;
    all.push_back("train.steps=12");
    half.push_back("train.steps=12");
    train(all, ranks, false, whole);
    // As a run that died behind step 5: the lines of later steps are dropped on resume.
    half.push_back("checkpoint.every_steps=5");
    half.push_back("checkpoint.keep=3");
    train(half, ranks, false, cut);
    std::filesystem::remove_all(RunFiles(directory_ / cut).checkpoints / "00000012");
    std::filesystem::remove_all(RunFiles(directory_ / cut).checkpoints / "00000010");
    ASSERT_EQ(CheckpointStore::list(RunFiles(directory_ / cut).checkpoints), std::vector<int64_t>{5});
    train(half, ranks, true, cut);
    const auto a = metrics(whole), b = metrics(cut);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); i++) {
      EXPECT_EQ(a[i].step, b[i].step);
      EXPECT_EQ(a[i].loss, b[i].loss);
      EXPECT_EQ(a[i].grad_norm, b[i].grad_norm);
      EXPECT_EQ(a[i].tokens, b[i].tokens);
    }
  }
}

TEST_F(TrainingRunRanks, ACorruptNewestCheckpointFallsBackToTheLastGoodOne) {
  train({"train.steps=10", "checkpoint.every_steps=5"}, 1, false);
  const RunFiles files(directory_ / "run");
  ASSERT_EQ(CheckpointStore::list(files.checkpoints), (std::vector<int64_t>{5, 10}));
  const std::vector<StepMetrics> before = metrics();
  for (const auto& entry : std::filesystem::directory_iterator(files.checkpoints / "00000010")) {
    if (entry.path().extension() != ".safetensors") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(entry.file_size()) - 100);
    file.put('\x55').put('\x2a').put('\x17');
  }
  train({"train.steps=10", "checkpoint.every_steps=5"}, 1, true);
  const std::vector<StepMetrics> after = metrics();
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); i++) EXPECT_EQ(after[i].loss, before[i].loss);
}

TEST_F(TrainingRunRanks, NonFiniteStepsAreSkippedAndTooManyInARowEndTheRunOnAllRanks) {
  try {
    // After the first update the weights are so large that nothing is finite any more.
    train({"train.steps=30", "optimizer.learning_rate=1e38", "optimizer.warmup_steps=0", "train.max_skipped_steps=4", "parallel.dp=2"}, 2,
          false);
    FAIL() << "nothing was thrown";
  } catch (const DataError& error) {
    EXPECT_NE(error.text().what.find("4 steps in a row were not finite"), std::string::npos) << error.what();
    EXPECT_NE(error.text().hint.find("optimizer.learning_rate"), std::string::npos);
  }
  const std::vector<StepMetrics> rows = metrics();
  EXPECT_FALSE(rows.front().skipped);
  EXPECT_TRUE(rows.back().skipped);
}

TEST_F(TrainingRunRanks, AnotherLayoutResumesARun) {
  train({"train.steps=6", "parallel.dp=2", "parallel.zero=1"}, 2, false);
  EXPECT_TRUE(train({"train.steps=12", "parallel.pp=2"}, 2, true).finished());
  EXPECT_EQ(metrics().size(), 12u);
}

TEST_F(TrainingRunRanks, DataThatAreMissingShortOrBeyondTheVocabularyAreRefused) {
  EXPECT_THROW(open_run_data(resolved({"data.validation_fraction=0.999"}, 1)), DataError);
  EXPECT_THROW(open_run_data(resolved({"model.vocab=50"}, 1)), DataError);
  ResolvedRun run = resolved({}, 1);
  run.config.data.path = (directory_ / "nothing").string();
  EXPECT_THROW(open_run_data(run), DataError);
  run.config.data.path = "";
  EXPECT_THROW(open_run_data(run), ConfigError);
}

}  // namespace tessera
