// Who writes a gradient first in a step: it overwrites what the step before left there, and all others add.
#include "kernels/gradient_write.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/tiny_run.h"

namespace tessera {

namespace {

/// Fills the gradients of all parameters with NaN.
void spoil_gradients(Trainer& trainer) {
  for (const LocalBucket& local : trainer.params().buckets()) {
    for (const BucketEntry& entry : local.bucket->entries) {
      const int64_t end = entry.offset + trainer.params().map().decl(*local.bucket, entry).shape.elements();
      const Tensor gradients = local.gradients.flat_range(entry.offset, end);
      std::memset(gradients.data, 0xFF, static_cast<size_t>(gradients.bytes()));
    }
  }
}

/// What changes who comes first: stages, schedule, micro-batches of a step, the use of a weight in two places.
std::vector<TinyRun> runs() {
  std::vector<TinyRun> runs;
  const auto add = [&](int ranks, std::vector<std::string> sets) {
    for (const char* tied : {"model.tied=true", "model.tied=false"}) {
      for (const char* architecture : {"model.architecture=gpt2", "model.architecture=llama"}) {
        runs.push_back({.sets = sets, .ranks = ranks, .steps = 2});
        runs.back().sets.insert(runs.back().sets.end(), {tied, architecture});
      }
    }
  };
  add(1, {});
  add(1, {"train.micro_batch_size=8"});
  add(1, {"precision.compute=bf16", "precision.gradients=bf16"});
  add(2, {"parallel.pp=2", "train.micro_batch_size=8"});
  add(2, {"parallel.pp=2", "parallel.schedule=gpipe"});
  add(4, {"parallel.pp=4", "parallel.schedule=1f1b"});
  add(2, {"parallel.dp=2", "parallel.zero=1"});
  return runs;
}

std::string text_of(const TinyRun& run) {
  std::string text;
  for (const std::string& set : run.sets) text += set + " ";
  return text;
}

}  // namespace

TEST(GradientWriteRanks, NothingOfWhatAStepFindsInItsGradientsIsLeft) {
  for (TinyRun tiny : runs()) {
    SCOPED_TRACE(text_of(tiny));
    tiny.start = [](Trainer& trainer) { trainer.initialize(); };
    const TinyResult clean = run_tiny(tiny);
    tiny.start = [](Trainer& trainer) {
      trainer.initialize();
      spoil_gradients(trainer);
    };
    const TinyResult spoilt = run_tiny(tiny);
    EXPECT_EQ(spoilt.norms, clean.norms);
    EXPECT_EQ(spoilt.losses, clean.losses);
    EXPECT_EQ(spoilt.first_gradients, clean.first_gradients);
    EXPECT_EQ(spoilt.weights, clean.weights);
  }
}

TEST(GradientWriteRanks, EveryMicroBatchButTheFirstIsAdded) {
  for (TinyRun tiny : runs()) {
    SCOPED_TRACE(text_of(tiny));
    tiny.sets.insert(tiny.sets.end(), {"precision.compute=fp32", "precision.gradients=fp32"});
    const TinyResult several = run_tiny(tiny);
    const TinyRun whole{.sets = {"train.micro_batch_size=8", *(tiny.sets.end() - 4), *(tiny.sets.end() - 3)}, .steps = 1};
    EXPECT_LE(worst_tensor_error(several.first_gradients, run_tiny(whole).first_gradients), 1e-5);
  }
}

TEST(GradientWriteRanks, ATiedGradientIsTheSumOfBothUses) {
  for (const std::string micro_batch : {"train.micro_batch_size=8", "train.micro_batch_size=2"}) {
    const TinyRun together{.sets = {micro_batch}, .steps = 1}, apart{.sets = {micro_batch, "parallel.pp=2"}, .ranks = 2, .steps = 1};
    EXPECT_LE(worst_tensor_error(run_tiny(together).first_gradients, run_tiny(apart).first_gradients), 1e-5);
  }
}

// 262144 logits of 4 bytes: a chunk of the head has 128 rows.
TEST(GradientWriteRanks, EveryChunkOfTheHeadButTheFirstIsAdded) {
  const std::vector<std::string> sets = {"model.layers=1",   "model.heads=1",     "model.hidden=8",    "model.vocab=262144",
                                         "model.context=80", "train.sequence=80", "train.batch_size=2"};
  TinyRun two_chunks{.sets = sets, .steps = 1}, one_chunk_twice = two_chunks;
  two_chunks.sets.emplace_back("train.micro_batch_size=2");
  one_chunk_twice.sets.emplace_back("train.micro_batch_size=1");
  EXPECT_LE(worst_tensor_error(run_tiny(two_chunks).first_gradients, run_tiny(one_chunk_twice).first_gradients), 1e-5);
}

}  // namespace tessera
