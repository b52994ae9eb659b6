#include "engine/run_config.h"

#include <gtest/gtest.h>

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

}  // namespace tessera
