// One truth: what null counts is what cpu does, op by op and byte by byte; and what the formulas say.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "engine/dry_run.h"
#include "engine/trainer.h"
#include "planner/question.h"
#include "tests/tiny_run.h"

namespace tessera {

namespace {

struct Layouts : testing::TestWithParam<std::pair<std::vector<std::string>, int>> {
  void SetUp() override {
    const bool packed = std::ranges::find(GetParam().first, "precision.packed_weights=on") != GetParam().first.end();
    if (packed && !processor_packs_weights()) GTEST_SKIP() << "this machine has no AVX-512";
  }
  TinyRun tiny() const { return {.sets = GetParam().first, .ranks = GetParam().second, .steps = 1}; }
};

}  // namespace

TEST_P(Layouts, TheTraceOnNullEqualsTheTraceOnCpuOpByOp) {
  TinyRun tiny = this->tiny();
  const ResolvedRun run = resolve_tiny(tiny);
  std::vector<Trace> traces(tiny.ranks);
  tiny.start = [&](Trainer& trainer) {
    trainer.initialize();
    trainer.device().compute().set_trace(&traces[trainer.mesh().rank()]);
  };
  tiny.finish = [](Trainer& trainer) { trainer.device().compute().set_trace(nullptr); };
  run_tiny(tiny);
  for (int rank = 0; rank < tiny.ranks; rank++) {
    const Trace null = dry_run(run, rank, imitated_cpu(1), true).trace;
    ASSERT_GT(null.size(), 100u);
    ASSERT_EQ(traces[rank].size(), null.size()) << "rank " << rank;
    for (size_t i = 0; i < null.size(); i++) {
      ASSERT_TRUE(null[i] == traces[rank][i]) << "rank " << rank << ", entry " << i << ": " << name_of(null[i].info.kind) << " on null, "
                                              << name_of(traces[rank][i].info.kind) << " on cpu";
    }
  }
}

TEST_P(Layouts, EveryStepHasTheSameTrace) {
  TinyRun tiny = this->tiny();
  tiny.finish = [&](Trainer& trainer) {
    const RandomSamples tokens(trainer.run().model.vocab);
    Trace second, third;
    trainer.device().compute().set_trace(&second), trainer.train_step(1, &tokens, false);
    trainer.device().compute().set_trace(&third), trainer.train_step(2, &tokens, false);
    trainer.device().compute().set_trace(nullptr);
    EXPECT_TRUE(second == third);
    EXPECT_TRUE(second == dry_run(trainer.run(), trainer.mesh().rank(), imitated_cpu(1), true).trace);
  };
  run_tiny(tiny);
}

TEST_P(Layouts, TheDryRunEqualsTheArenaToTheByteInEveryCategory) {
  TinyRun tiny = this->tiny();
  const ResolvedRun run = resolve_tiny(tiny);
  tiny.finish = [&](Trainer& trainer) {
    const RandomSamples tokens(run.model.vocab);
    trainer.evaluate(&tokens, 1);
    expect_arena_of_dry_run(trainer);
  };
  run_tiny(tiny);
}

TEST_P(Layouts, TheFormulaEqualsTheDryRun) {
  const ResolvedRun run = resolve_tiny(tiny());
  for (int rank = 0; rank < run.layout.ranks(); rank++) {
    MemoryTable table = predict_memory(memory_question(run, imitated_cpu(1)), rank);
    add_memory_rows(table, rank, dry_run(run, rank, {.threads = 1}).use, &MemoryRow::dry_run_bytes);
    for (MemoryCategory category : {MemoryCategory::Weights, MemoryCategory::MasterWeights, MemoryCategory::Gradients,
                                    MemoryCategory::OptimizerStates, MemoryCategory::DerivedWeights}) {
      const MemoryRow* row = table.find(rank, MemorySpace::Device, category);
      if (!row) {
        const bool absent = category == MemoryCategory::MasterWeights
                                ? run.precision.master == run.precision.compute
                                : category == MemoryCategory::DerivedWeights && !run.precision.packed_weights;
        EXPECT_TRUE(absent) << name_of(category);
        continue;
      }
      EXPECT_EQ(row->formula_bytes, row->dry_run_bytes) << name_of(category);
    }
    const MemoryRow* activations = table.find(rank, MemorySpace::Device, MemoryCategory::Activations);
    EXPECT_NEAR(static_cast<double>(*activations->formula_bytes) / static_cast<double>(*activations->dry_run_bytes), 1, 0.01);
  }
}

INSTANTIATE_TEST_SUITE_P(
    DryRunRanks, Layouts,
    testing::Values(std::pair(std::vector<std::string>{}, 1), std::pair(std::vector<std::string>{"precision.compute=bf16"}, 1),
                    std::pair(std::vector<std::string>{"precision.compute=fp16", "parallel.pp=2"}, 2),
                    std::pair(std::vector<std::string>{"precision.compute=bf16", "precision.gradients=bf16", "precision.moments=bf16",
                                                       "parallel.dp=2", "parallel.zero=1"},
                              2),
                    std::pair(std::vector<std::string>{"precision.compute=bf16", "precision.master=bf16", "optimizer.name=momentum"}, 1),
                    std::pair(std::vector<std::string>{"model.architecture=llama", "model.kv_heads=2", "model.tied=false", "parallel.pp=2"},
                              2),
                    std::pair(std::vector<std::string>{"model.architecture=llama", "precision.compute=bf16"}, 1),
                    std::pair(std::vector<std::string>{"precision.compute=bf16", "precision.packed_weights=on", "parallel.pp=2"}, 2),
                    std::pair(std::vector<std::string>{"model.architecture=llama", "model.kv_heads=2", "precision.compute=bf16",
                                                       "precision.packed_weights=on"},
                              1),
                    std::pair(std::vector<std::string>{"parallel.pp=2"}, 2),
                    std::pair(std::vector<std::string>{"parallel.pp=4", "parallel.schedule=gpipe"}, 4),
                    std::pair(std::vector<std::string>{"parallel.pp=2", "model.tied=false"}, 2),
                    std::pair(std::vector<std::string>{"parallel.dp=2"}, 2),
                    std::pair(std::vector<std::string>{"parallel.dp=3", "parallel.zero=1", "train.batch_size=12"}, 3),
                    std::pair(std::vector<std::string>{"parallel.dp=2", "parallel.pp=2", "parallel.zero=1"}, 4)));

TEST(DryRun, CountsMoreThanTwoTebibytesForGpt3175bOnOneRank) {
  RunConfig config;
  config.model.preset = "gpt3-175b";
  config.train.batch_size = config.train.micro_batch_size = 1;
  const DryRun dry = dry_run(resolve(config, {}, 1, 0), 0, {.threads = 1});
  EXPECT_GT(dry.size.total_bytes(), int64_t{2} << 40);
}

TEST(DryRun, AsCudaCountsTokensTwiceAndInPinnedMemoryAndCopiesThemAhead) {
  const ResolvedRun run = resolve_tiny({});
  const DryRun cpu = dry_run(run, 0, imitated_cpu(1), true), cuda = dry_run(run, 0, imitated_cuda(1), true);
  const auto data = static_cast<size_t>(MemoryCategory::Data), device = static_cast<size_t>(MemorySpace::Device),
             pinned = static_cast<size_t>(MemorySpace::PinnedHost);
  const int64_t tokens = 3 * run.layout.micro_batches() * run.micro_batch.rows() * 4;  // tokens, their order, targets
  EXPECT_EQ(cuda.use.peak_bytes[device][data] - cpu.use.peak_bytes[device][data], tokens);
  EXPECT_EQ(cuda.use.peak_bytes[pinned][data], 2 * tokens);
  EXPECT_EQ(cpu.use.peak_bytes[pinned][data], 0);
  const auto waits_for_data = [](const Trace& trace) {
    return std::ranges::count_if(trace, [](const TraceEntry& entry) {
      return entry.info.kind == OpKind::Wait && entry.info.shape.extents[0] == static_cast<int64_t>(WaitReason::Data);
    });
  };
  EXPECT_EQ(waits_for_data(cuda.trace), 1);
  EXPECT_EQ(waits_for_data(cpu.trace), 0);
}

TEST(DryRun, RefusesARunThatDoesNotFitAndNamesTheCategories) {
  const DryRun dry = dry_run(resolve_tiny({}), 0, {.threads = 1});
  expect_fits(dry, dry.size.total_bytes(), 1, dry.size.total_bytes());
  expect_fits(dry, dry.size.total_bytes(), 1, std::nullopt);
  EXPECT_THROW(expect_fits(dry, dry.size.total_bytes(), 1, 0), OutOfMemoryError);
  try {
    expect_fits(dry, dry.size.total_bytes(), 1, dry.size.total_bytes() - 1);
    FAIL() << "nothing was thrown";
  } catch (const OutOfMemoryError& error) {
    EXPECT_NE(error.text().where.find("activations"), std::string::npos);
    EXPECT_NE(error.text().hint.find("train.micro_batch_size"), std::string::npos);
  }
}

}  // namespace tessera
