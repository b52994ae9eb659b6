#include "engine/run_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <set>

#include "base/error.h"

namespace tessera {

namespace {

RunConfig small() {
  RunConfig config;
  config.model.layers = 2, config.model.hidden = 32, config.model.heads = 4, config.model.vocab = 96, config.model.context = 16;
  return config;
}

std::string error_of(const RunConfig& config, int ranks) {
  try {
    resolve(config, {}, ranks, 0);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(RunConfig, DefaultsThatDependOnOtherKeysAreResolved) {
  RunConfig config = small();
  config.train.micro_batch_size = 2;
  const ResolvedRun run = resolve(config, {}, 4, 0);
  EXPECT_EQ(run.model.head_dim, 8);
  EXPECT_EQ(run.model.ffn, 128);
  EXPECT_EQ(run.micro_batch.T, 16);
  EXPECT_EQ(run.layout.degree(Axis::Dp), 4);
}

TEST(RunConfig, MicroBatchesAreBatchOverReplicasAndMicroBatch) {
  RunConfig config = small();
  config.train.batch_size = 24, config.train.micro_batch_size = 3;
  EXPECT_EQ(resolve(config, {}, 2, 0).layout.micro_batches(), 4);
  EXPECT_EQ(resolve(config, {}, 1, 0).layout.micro_batches(), 8);
}

TEST(RunConfig, APresetGivesTheShapeAndOtherKeysOverrideIt) {
  RunConfig config;
  config.model.preset = "gpt2-124m";
  config.model.layers = 3;
  const ModelSpec model = resolve(config, {}, 1, 0).model;
  EXPECT_EQ(model.layers, 3);
  EXPECT_EQ(model.hidden, 768);
  EXPECT_EQ(model.vocab, 50257);
}

TEST(RunConfig, TheTokenizerGivesTheVocabularyWhereNobodyElseDoes) {
  RunConfig config = small();
  config.model.vocab = 0;
  EXPECT_EQ(resolve(config, {}, 1, 4096).model.vocab, 4096);
  EXPECT_NE(error_of(config, 1).find("model.vocab"), std::string::npos);
}

TEST(RunConfig, WhatIsStoredGivesTheSameRunOnItsOwn) {
  RunConfig config;
  config.model.preset = "gpt2-124m", config.model.hidden = 384;
  config.train.micro_batch_size = 2;
  config.data.path = "some/../text", config.data.tokenizer = "tok.model";
  const ResolvedRun run = resolve(config, {}, 4, 0);
  const std::string stored = write_toml(run.config);
  RunConfig back;
  read_toml_text(stored, "stored", back);
  const std::filesystem::path here = std::filesystem::current_path();
  EXPECT_EQ(run.config.data.path, (here / "text").string());
  std::filesystem::current_path("/");
  const ResolvedRun again = resolve(back, {}, 4, 17);  // elsewhere, with another tokenizer
  std::filesystem::current_path(here);
  EXPECT_EQ(write_toml(again.config), stored);
  EXPECT_EQ(again.model, run.model);
  EXPECT_EQ(again.layout, run.layout);
  EXPECT_EQ(again.micro_batch, run.micro_batch);
  EXPECT_EQ(again.threads, run.threads);
  back.model.preset = "";  // a later table of presets may say something else
  EXPECT_EQ(resolve(back, {}, 4, 17).model, run.model);
}

TEST(RunConfig, NothingThatFollowsFromOtherKeysIsLeftOpenInWhatIsStored) {
  RunConfig config = small();
  config.train.micro_batch_size = 2;
  ResolvedRun run = resolve(config, {}, 4, 0);
  const std::set<std::string> zero_means_off = {"train.clip", "checkpoint.every_steps"};
  const std::vector<ConfigKey> keys = ConfigFields::of(run.config).list();
  for (const ConfigKey& key : keys) {
    if (key.help.find("0: ") == std::string::npos || zero_means_off.contains(key.key)) continue;
    EXPECT_NE(key.default_text, "0") << key.key;
  }
}

TEST(RunConfig, TheLengthOfATimeBudgetIsStoredWithWhatDependsOnIt) {
  RunConfig config = small();
  config.train.minutes = 3;
  ResolvedRun run = resolve(config, {}, 1, 0);
  run.set_steps(500);
  EXPECT_EQ(run.config.train.minutes, 0);
  EXPECT_EQ(run.config.train.steps, 500);
  EXPECT_EQ(run.config.train.eval_every, 50);
}

TEST(RunConfig, ARunIsAnotherOneWhenItsModelSeedSequenceOrSplitDiffers) {
  const ResolvedRun saved = resolve(small(), {}, 1, 0);
  const std::string stored = write_toml(saved.config);
  ResolvedRun run = saved;
  run.config.optimizer.learning_rate = 1, run.config.train.batch_size = 64, run.config.parallel.dp = 8;
  run.config.data.path = "/elsewhere";
  EXPECT_NO_THROW(expect_same_run(stored, run, "checkpoint"));
  run.config.model.layers = 3, run.config.train.seed = 5;
  try {
    expect_same_run(stored, run, "checkpoint");
    FAIL() << "no difference was seen";
  } catch (const ConfigError& error) {
    EXPECT_NE(error.text().what.find("model.layers = 3, but 2 in the checkpoint"), std::string::npos) << error.what();
    EXPECT_NE(error.text().what.find("train.seed = 5, but 1 in the checkpoint"), std::string::npos) << error.what();
    EXPECT_EQ(error.text().legal, "model.layers = 2, train.seed = 1");
    EXPECT_EQ(error.text().where, "checkpoint");
  }
}

TEST(RunConfig, AutoTakesTheTypeThatIsFastHereAndStoresIt) {
  RunConfig config = small();
  config.precision.compute = "auto";
  EXPECT_EQ(resolve(config, {}, 1, 0, {.fast = DType::f32}).precision.compute, DType::f32);
  config.precision.master = "bf16";  // the master is the weight
  const ResolvedRun run = resolve(config, {}, 1, 0, {.fast = DType::bf16});
  EXPECT_EQ(run.precision, (Precision{.compute = DType::bf16, .master = DType::bf16}));
  EXPECT_EQ(run.micro_batch.dtype, DType::bf16);
  EXPECT_EQ(run.config.precision.compute, "bf16");
}

TEST(RunConfig, PackedWeightsNeedBf16AndAreNoneOnASmallStep) {
  RunConfig config = small();
  EXPECT_FALSE(resolve(config, {}, 1, 0).precision.packed_weights);
  config.precision.packed_weights = "on";
  EXPECT_NE(error_of(config, 1).find("precision.packed_weights = \"on\" needs bf16, and precision.compute is fp32"), std::string::npos);
  config.precision.compute = "bf16";
  if (processor_packs_weights()) {
    EXPECT_TRUE(resolve(config, {}, 1, 0).precision.packed_weights);
  } else {
    EXPECT_NE(error_of(config, 1).find("AVX-512"), std::string::npos);
  }
  EXPECT_THROW(resolve(config, {}, 1, 0, {.device = DeviceKind::Cuda}), ConfigError) << "GPUs have their own way";
  config.precision.packed_weights = "auto";
  EXPECT_FALSE(resolve(config, {}, 1, 0).precision.packed_weights) << "fewer than 2048 tokens";
  config.train.batch_size = 2048 / config.model.context;
  EXPECT_EQ(resolve(config, {}, 1, 0).precision.packed_weights, processor_gains_by_packed_weights());
  EXPECT_FALSE(resolve(config, {}, 1, 0, {.device = DeviceKind::Cuda}).precision.packed_weights);
}

TEST(RunConfig, StatesThatCannotBeAreRefused) {
  RunConfig config = small();
  config.precision.master = "bf16";
  EXPECT_NE(error_of(config, 1).find("precision.master"), std::string::npos);
  config.precision.master = "fp32", config.precision.loss_scale = 1000;
  EXPECT_NE(error_of(config, 1).find("no power of two"), std::string::npos);
  config.precision.loss_scale = 1024, config.precision.compute = "bf16", config.model.vocab = 1 << 21;
  EXPECT_NE(error_of(config, 1).find("logits of 16 bits"), std::string::npos);
  EXPECT_THROW(apply_set(config, "precision.moments=fp16"), ConfigError);
}

TEST(RunConfig, ALossScaleIsKeptOnlyUnderTheSettingsThatFoundIt) {
  RunConfig config = small();
  config.precision.compute = "fp16";
  const ResolvedRun half = resolve(config, {}, 1, 0);
  const std::string saved = write_toml(half.config);
  EXPECT_TRUE(keeps_loss_scale(saved, half));
  config.precision.loss_scale = 1024;
  EXPECT_FALSE(keeps_loss_scale(saved, resolve(config, {}, 1, 0)));
  EXPECT_FALSE(keeps_loss_scale(write_toml(resolve(small(), {}, 1, 0).config), half)) << "an fp32 run found none";
}

TEST(RunConfig, TheDecayOfATimeBudgetFollowsItsLength) {
  RunConfig config = small();
  config.train.minutes = 1, config.optimizer.schedule = "wsd";
  ResolvedRun run = resolve(config, {}, 1, 0);
  run.set_steps(500);
  EXPECT_EQ(run.learning_rate().decay_steps, 100);
}

TEST(RunConfig, ImpossibleLayoutsNameTheKeyTheValueAndWhatIsLegal) {
  RunConfig config = small();
  config.parallel.pp = 3;
  EXPECT_NE(error_of(config, 4).find("parallel.pp = 3 does not divide the number of ranks, 4"), std::string::npos);
  EXPECT_NE(error_of(config, 4).find("1, 2, 4"), std::string::npos);
  EXPECT_NE(error_of(config, 3).find("model.layers = 2"), std::string::npos);
  config.parallel.pp = 1, config.parallel.dp = 2;
  EXPECT_NE(error_of(config, 4).find("--ranks 2"), std::string::npos);
  config.train.batch_size = 9, config.train.micro_batch_size = 4;
  EXPECT_NE(error_of(config, 2).find("multiples of 8"), std::string::npos);
}

TEST(RunConfig, HeadsThatDoNotDivideTheWidthAndSequencesBeyondTheContextAreRefused) {
  RunConfig config = small();
  config.model.heads = 5;
  EXPECT_NE(error_of(config, 1).find("model.heads = 5"), std::string::npos);
  config = small();
  config.train.sequence = 17;
  EXPECT_NE(error_of(config, 1).find("1 to 16"), std::string::npos);
}

TEST(RunConfig, SizesThatNoCounterHoldsAreRefusedByNameAndNotByOverflow) {
  const auto refused = [](const std::function<void(RunConfig&)>& change) {
    RunConfig config = small();
    change(config);
    return error_of(config, 1);
  };
  EXPECT_NE(refused([](RunConfig& c) { c.model.hidden = 3'000'000'000'000; }).find("model.hidden = 3000000000000"), std::string::npos);
  EXPECT_NE(refused([](RunConfig& c) { c.model.layers = 100'000'000; }).find("model.layers = 100000000"), std::string::npos);
  EXPECT_NE(refused([](RunConfig& c) { c.model.hidden = most_width, c.model.heads = 1 << 16; }).find("parameters"), std::string::npos);
  EXPECT_NE(
      refused([](RunConfig& c) { c.model.context = most_context, c.train.batch_size = c.train.micro_batch_size = 256; }).find("1 to 127"),
      std::string::npos);
  EXPECT_NE(refused([](RunConfig& c) {
              c.model.layers = most_layers, c.model.hidden = c.model.heads = 1 << 15, c.model.head_dim = 8;
              c.model.context = most_context, c.train.batch_size = c.train.micro_batch_size = 100;
            }).find("more than can be counted"),
            std::string::npos);
}

TEST(RunConfig, KeysHaveUpperBoundsWhoseProductsFit) {
  RunConfig config;
  for (const char* set : {"parallel.pp=4294967296", "parallel.dp=4294967296", "parallel.threads=4294967296",
                          "train.micro_batch_size=4611686018427387904", "model.hidden=3000000000000", "model.layers=100000000"}) {
    EXPECT_THROW(apply_set(config, set), ConfigError) << set;
  }
}

}  // namespace tessera
