#include "model/decls.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace tessera {

static int64_t parameters(const char* preset) { return parameter_count(declare_model(model_preset(preset).spec)); }

TEST(Decls, TheGpt2SizesHaveExactlyTheirPublishedParameters) {
  EXPECT_EQ(parameters("gpt2-124m"), 124439808);
  EXPECT_EQ(parameters("gpt2-355m"), 354823168);
  EXPECT_EQ(parameters("gpt2-774m"), 774030080);
  EXPECT_EQ(parameters("gpt2-1558m"), 1557611200);
}

TEST(Decls, TheLlamaSizesHaveExactlyTheirPublishedParameters) {
  EXPECT_EQ(parameters("llama-7b"), 6738415616);
  EXPECT_EQ(parameters("llama-13b"), 13015864320);
  EXPECT_EQ(parameters("llama-33b"), 32528943616);
  EXPECT_EQ(parameters("llama-65b"), 65285660672);
  EXPECT_EQ(parameters("llama-3.2-1b"), 1235814400);
  EXPECT_EQ(parameters("llama-3-8b"), 8030261248);
  EXPECT_EQ(parameters("llama-3-70b"), 70553706496);
  EXPECT_EQ(parameters("llama-3-405b"), 405853388800);
}

TEST(Decls, TheGpt3AndMegatronSizesLieNearTheirNominalOnes) {
  // Nominal sizes: Brown et al. 2020, Table 2.1; Narayanan et al. 2021, Table 1 (which gives a decimal more).
  const std::vector<std::pair<const char*, double>> nominal = {
      {"gpt3-small", 125e6},      {"gpt3-medium", 350e6},   {"gpt3-large", 760e6},      {"gpt3-xl", 1.3e9},
      {"gpt3-2.7b", 2.7e9},       {"gpt3-6.7b", 6.7e9},     {"gpt3-13b", 13e9},         {"gpt3-175b", 175e9},
      {"megatron-1.7b", 1.7e9},   {"megatron-3.6b", 3.6e9}, {"megatron-7.5b", 7.5e9},   {"megatron-18b", 18.4e9},
      {"megatron-39b", 39.1e9},   {"megatron-76b", 76.1e9}, {"megatron-145b", 145.6e9}, {"megatron-310b", 310.1e9},
      {"megatron-530b", 529.6e9}, {"megatron-1t", 1008e9}};
  for (const auto& [name, expected] : nominal) EXPECT_NEAR(static_cast<double>(parameters(name)) / expected, 1, 0.03) << name;
}

TEST(Decls, TheLectureFormulaCountsBlocksAndBothEmbeddings) {
  const ModelSpec spec = model_preset("gpt2-124m").spec;
  EXPECT_EQ(lecture_parameter_count(spec), 12 * 12 * 768 * 768 + 2 * 50257 * 768);
}

TEST(Decls, NamesAreUniqueAndTiedParametersRepeatOneThatExists) {
  for (bool tied : {true, false}) {
    ModelSpec spec = model_preset("gpt2-124m").spec;
    spec.tied = tied;
    std::set<std::string> names;
    for (const UnitDecls& unit : declare_model(spec)) {
      for (const ParamDecl& decl : unit.decls) {
        EXPECT_TRUE(names.insert(decl.name).second) << decl.name;
        EXPECT_TRUE(decl.tied_to.empty() || names.contains(decl.tied_to)) << decl.name;
      }
    }
    EXPECT_EQ(parameter_count(declare_model(spec)), 124439808 + (tied ? 0 : 50257 * 768));
  }
}

TEST(Decls, EveryBlockBelongsToExactlyOneChunkAndTheRemainderIsInTheMiddle) {
  ModelSpec spec = model_preset("gpt2-124m").spec;
  for (spec.layers = 1; spec.layers <= 13; spec.layers++) {
    for (int chunks = 1; chunks <= spec.layers; chunks++) {
      int64_t next = 0;
      for (int chunk = 0; chunk < chunks; chunk++) {
        const StageRange range = stage_range(spec, chunk, chunks);
        EXPECT_EQ(range.first_block, next);
        EXPECT_GE(range.last_block - range.first_block, spec.layers / chunks);
        EXPECT_LE(range.last_block - range.first_block, (spec.layers + chunks - 1) / chunks);
        next = range.last_block;
      }
      EXPECT_EQ(next, spec.layers);
    }
    EXPECT_THROW(stage_range(spec, 0, static_cast<int>(spec.layers) + 1), ConfigError);
  }
}

TEST(Presets, AMisspeltNameGetsItsNearestNeighbour) {
  try {
    model_preset("gpt2-124");
    FAIL() << "nothing was thrown";
  } catch (const ConfigError& error) {
    EXPECT_NE(error.text().hint.find("gpt2-124m"), std::string::npos);
  }
}

}  // namespace tessera
