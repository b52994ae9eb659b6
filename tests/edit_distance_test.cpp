#include "base/edit_distance.h"

#include <gtest/gtest.h>

#include <vector>

namespace tessera {

TEST(EditDistance, CountsInsertionsDeletionsReplacementsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("steps", "steps"), 0);
  EXPECT_EQ(edit_distance("step", "steps"), 1);
  EXPECT_EQ(edit_distance("stepps", "steps"), 1);
  EXPECT_EQ(edit_distance("staps", "steps"), 1);
  EXPECT_EQ(edit_distance("stpes", "steps"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("ca", "abc"), 3);  // no part is edited twice
}

TEST(EditDistance, IsSymmetric) {
  const std::vector<std::string> names = {"", "tp", "pt", "steps", "warmup_steps", "setps", "max_skipped_steps"};
  for (const std::string& a : names)
    for (const std::string& b : names) EXPECT_EQ(edit_distance(a, b), edit_distance(b, a)) << a << " " << b;
}

TEST(NearestName, SuggestsWithinThreeEditsAndNothingBeyond) {
  const std::vector<std::string> names = {"train.steps", "train.seed", "model.layers"};
  EXPECT_EQ(nearest_name("train.stpes", names), "train.steps");
  EXPECT_EQ(nearest_name("model.layer", names), "model.layers");
  EXPECT_EQ(nearest_name("mdel.lyrs", names), "model.layers");
  EXPECT_EQ(nearest_name("mdl.lyrs", names), "");
  EXPECT_EQ(nearest_name("optimizer", names), "");
  EXPECT_EQ(nearest_name("x", {}), "");
}

TEST(NearestName, TakesTheFirstOfEquals) {
  const std::vector<std::string> names = {"cpu", "cuda", "cpa"};
  EXPECT_EQ(nearest_name("cpx", names), "cpu");
}

TEST(NearestName, DoesNotTurnAShortNameIntoAnyOther) {
  const std::vector<std::string> names = {"pp", "null", "adamw"};
  EXPECT_EQ(nearest_name("tp", names), "pp");
  EXPECT_EQ(nearest_name("xy", names), "");
  EXPECT_EQ(nearest_name("cpu", names), "");
}

}  // namespace tessera
