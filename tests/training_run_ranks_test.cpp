// Whole runs: files, resume, faults. Small models on a token file made here.
#include "engine/training_run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "engine/checkpoint.h"
#include "engine/tuning.h"
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
    write_text("text", 7);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write_text(const std::string& name, size_t factor) const {
    IndexedFileWriter writer((directory_ / name).string(), 96);
    for (int document = 0; document < 20; document++) {
      std::vector<int32_t> tokens(200);
      for (size_t i = 0; i < tokens.size(); i++)
        tokens[i] = static_cast<int32_t>((i * i + factor * i * static_cast<size_t>(document)) % 96);
      writer.add_tokens(tokens);
      writer.end_document();
    }
    writer.finish();
  }
  ResolvedRun resolved(std::vector<std::string> sets, int ranks) const {
    sets.insert(sets.begin(), "data.path=" + (directory_ / "text").string());
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
    notices_.resize(static_cast<size_t>(std::ftell(quiet)));
    std::rewind(quiet);
    notices_.resize(std::fread(notices_.data(), 1, notices_.size(), quiet));
    std::fclose(quiet);
    return result;
  }
  std::vector<StepMetrics> metrics(const std::string& name = "run") const { return MetricsLog::read(RunFiles(directory_ / name).metrics); }

  bool noticed(const std::string& text) const { return notices_.find(text) != std::string::npos; }

  std::filesystem::path directory_;
  std::string notices_;  // of the newest train()
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
  const std::vector<std::string> sets = {"train.steps=12", "checkpoint.every_steps=5", "checkpoint.keep=3"};
  train(sets, 1, false, "whole");
  train(sets, 1, false);
  const RunFiles files(directory_ / "run");
  ASSERT_EQ(CheckpointStore::list(files.checkpoints), (std::vector<int64_t>{5, 10, 12}));
  std::filesystem::remove_all(files.checkpoints / "00000012");
  for (const auto& entry : std::filesystem::directory_iterator(files.checkpoints / "00000010")) {
    if (entry.path().extension() != ".safetensors") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(entry.file_size()) - 100);
    file.put('\x55').put('\x2a').put('\x17');
  }
  // What stands in these lines afterwards was computed again.
  std::vector<StepMetrics> spoilt = metrics();
  std::filesystem::remove(files.metrics);
  MetricsLog log(files.metrics);
  for (StepMetrics& row : spoilt) {
    if (row.step > 5) row.loss = -1;
    log.append(row);
  }
  train(sets, 1, true);
  EXPECT_TRUE(noticed("the checkpoint of step 10 is damaged and passed over")) << notices_;
  EXPECT_TRUE(noticed("resumed from step 5")) << notices_;
  const std::vector<StepMetrics> whole = metrics("whole"), after = metrics();
  ASSERT_EQ(after.size(), whole.size());
  for (size_t i = 0; i < after.size(); i++) {
    EXPECT_EQ(after[i].step, whole[i].step);
    EXPECT_EQ(after[i].loss, whole[i].loss);
  }
}

TEST_F(TrainingRunRanks, AnotherModelSeedSequenceOrTextIsNotResumedAndLosesNothing) {
  train({"train.steps=4", "checkpoint.keep=1"}, 1, false);
  write_text("other", 11);
  const RunFiles files(directory_ / "run");
  const std::string config = read_config_file(files.config);
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"model.layers=1", "model.layers = 1, but 4 in the checkpoint"},
      {"model.heads=2", "model.heads = 2, but 4 in the checkpoint"},
      {"model.tied=false", "model.tied = false, but true in the checkpoint"},
      {"train.seed=9", "train.seed = 9, but 1 in the checkpoint"},
      {"train.sequence=8", "train.sequence = 8, but 16 in the checkpoint"},
      {"data.validation_fraction=0.5", "data.validation_fraction = 0.5, but 0.05 in the checkpoint"},
      {"data.path=" + (directory_ / "other").string(), "holds other tokens than the run was trained on"},
      {"train.minutes=1", "train.minutes sets the length of a new run only"},
      {"train.steps=3", "train.steps = 3, but the run has done 4 steps"}};
  for (const auto& [change, words] : changes) {
    try {
      train({"train.steps=6", "checkpoint.keep=1", change}, 1, true);
      ADD_FAILURE() << "resumed with " << change;
    } catch (const ConfigError& error) {
      EXPECT_NE(error.text().what.find(words), std::string::npos) << error.what();
      EXPECT_NE(error.text().where.find("00000004"), std::string::npos) << error.what();
    }
    EXPECT_EQ(CheckpointStore::list(files.checkpoints), std::vector<int64_t>{4});
    EXPECT_EQ(read_config_file(files.config), config);
    EXPECT_EQ(metrics().size(), 4u);
  }
}

TEST_F(TrainingRunRanks, TheTextMayHaveMovedAndOtherKeysMayChange) {
  train({"train.steps=4"}, 1, false);
  write_text("moved", 7);
  EXPECT_TRUE(train({"train.steps=6", "optimizer.learning_rate=1e-4", "train.batch_size=4", "data.path=" + (directory_ / "moved").string()},
                    1, true)
                  .finished());
  EXPECT_EQ(metrics().size(), 6u);
}

TEST_F(TrainingRunRanks, ResumingARunThatIsDoneLeavesItsReport) {
  train({"train.steps=4"}, 2, false);
  const RunFiles files(directory_ / "run");
  const std::string report = read_config_file(files.report);
  train({"train.steps=4"}, 2, true);
  EXPECT_TRUE(noticed("nothing was left to do: 4 of 4")) << notices_;
  EXPECT_EQ(read_config_file(files.report), report);
  std::filesystem::remove(files.report);  // as if the process had been killed behind its last save
  train({"train.steps=4"}, 2, true);
  const RunReport again = read_run_report(files.report);
  EXPECT_EQ(again.first_loss, metrics().front().loss);
  EXPECT_EQ(again.last_loss, metrics().back().loss);
  EXPECT_EQ(again.val_loss, metrics().back().val_loss);
}

TEST_F(TrainingRunRanks, TheReportOfAResumedRunBeginsWithItsFirstStep) {
  train({"train.steps=4"}, 1, false);
  train({"train.steps=6"}, 1, true);
  const RunReport report = read_run_report(RunFiles(directory_ / "run").report);
  EXPECT_EQ(report.first_loss, metrics().front().loss);
  EXPECT_EQ(report.last_loss, metrics().back().loss);
  EXPECT_NE(report.first_loss, metrics()[4].loss);
}

TEST_F(TrainingRunRanks, AResumeWithoutACheckpointSaysThatItStartsAnew) {
  train({"train.steps=4"}, 1, false);
  std::filesystem::remove(RunFiles(directory_ / "run").checkpoints / "00000004" / "manifest.json");
  train({"train.steps=4"}, 1, true);
  EXPECT_TRUE(noticed("00000004 has no manifest.json")) << notices_;
  EXPECT_TRUE(noticed("starting at step 1")) << notices_;
  EXPECT_EQ(metrics().size(), 4u);
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

TEST_F(TrainingRunRanks, AScaleOfTheLossThatStartsTooHighIsNamedWhenFp16FindsNoFiniteStep) {
  try {
    train({"train.steps=9", "precision.compute=fp16", "precision.loss_scale=16777216", "train.max_skipped_steps=2"}, 1, false);
    FAIL() << "nothing was thrown";
  } catch (const DataError& error) {
    EXPECT_NE(error.text().hint.find("lower precision.loss_scale"), std::string::npos) << error.what();
  }
}

TEST_F(TrainingRunRanks, AnotherLayoutResumesARun) {
  train({"train.steps=6", "parallel.dp=2", "parallel.zero=1"}, 2, false);
  EXPECT_TRUE(train({"train.steps=12", "parallel.pp=2"}, 2, true).finished());
  EXPECT_EQ(metrics().size(), 12u);
}

TEST_F(TrainingRunRanks, TheTuningTableIsSavedAndAResumedRunKeepsIt) {
  const RunFiles files(directory_ / "run");
  train({"train.steps=4"}, 1, false);
  EXPECT_FALSE(std::filesystem::exists(files.tuning)) << "fixed";
  train({"train.steps=4", "train.tuning=measure"}, 1, false);
  std::string text = read_config_file(files.tuning);
  const TuningTable table = read_tuning(text, "the table");
  ASSERT_FALSE(table.empty());
  const size_t choice = text.find("\"choice\": \"" + table[0].choice);
  text.replace(choice, 11 + table[0].choice.size(), "\"choice\": \"" + table[0].measured.back().name);
  std::ofstream(files.tuning) << text;
  train({"train.steps=6", "train.tuning=measure"}, 1, true);
  EXPECT_EQ(read_config_file(files.tuning), text);
}

TEST_F(TrainingRunRanks, ATuningTableOfAnotherPlaceIsUsedAndAMissingOneRefused) {
  train({"train.steps=4", "train.tuning=measure"}, 1, false, "first");
  const std::string table = RunFiles(directory_ / "first").tuning.string();
  train({"train.steps=4", "train.tuning=" + table}, 1, false, "second");
  EXPECT_EQ(read_config_file(RunFiles(directory_ / "second").tuning), read_config_file(table));
  std::ofstream(directory_ / "empty.json").close();
  for (const char* name : {"nothing.json", "empty.json"}) {
    EXPECT_THROW(train({"train.tuning=" + (directory_ / name).string()}, 2, false, "third"), DataError) << name;
  }
  std::filesystem::remove(table);
  EXPECT_TRUE(train({"train.steps=6", "train.tuning=" + table}, 1, true, "second").finished()) << "the run's own table serves";
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
