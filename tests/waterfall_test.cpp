#include "report/waterfall.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tessera {

static Waterfall example() {
  Waterfall waterfall;
  waterfall.step_seconds = 0.4;
  waterfall[Bar::Forward] = 0.1;
  waterfall[Bar::Backward] = 0.2;
  waterfall[Bar::ExposedDp] = 0.04;
  waterfall[Bar::Optimizer] = 0.02;
  return waterfall;
}

TEST(Waterfall, BarsAndOtherAddUpToTheStep) {
  const Waterfall waterfall = example();
  EXPECT_NEAR(waterfall.other(), 0.04, 1e-15);
  double share = waterfall.share(waterfall.other());
  for (double seconds : waterfall.bar_seconds) share += waterfall.share(seconds);
  EXPECT_NEAR(share, 1, 1e-15);
}

TEST(Waterfall, OverlappingBarsShowAsNegativeOther) {
  Waterfall waterfall = example();
  waterfall[Bar::Data] = 0.1;
  EXPECT_NEAR(waterfall.other(), -0.06, 1e-15);
  EXPECT_NE(waterfall.text().find("-15.0%"), std::string::npos) << waterfall.text();
}

TEST(Waterfall, TextDrawsEachBarFromWhereTheOneAboveEnded) {
  EXPECT_EQ(example().text(),
            "a step takes 400 ms, mean over all ranks\n"
            "forward    |#############                                     |  25.0% |  100 ms\n"
            "backward   |             #########################            |  50.0% |  200 ms\n"
            "exposed_dp |                                      #####       |  10.0% | 40.0 ms\n"
            "optimizer  |                                           ##     |   5.0% | 20.0 ms\n"
            "other      |                                             #####|  10.0% | 40.0 ms\n");
}

TEST(Waterfall, ALongNameMovesEveryLine) {
  Waterfall waterfall = example();
  waterfall[Bar::ExposedControl] = 0.01;
  EXPECT_NE(waterfall.text().find("\nforward         |#"), std::string::npos) << waterfall.text();
  EXPECT_NE(waterfall.text().find("\nexposed_control |"), std::string::npos) << waterfall.text();
}

TEST(Waterfall, TheMeanOverRanksAddsUpToTheMeanStep) {
  Waterfall other = example();
  other.step_seconds = 0.6;
  other[Bar::Forward] = 0.2, other[Bar::Bubble] = 0.1;
  const Waterfall mean = mean_of(std::vector<Waterfall>{example(), other});
  EXPECT_NEAR(mean.step_seconds, 0.5, 1e-15);
  EXPECT_NEAR(mean[Bar::Forward], 0.15, 1e-15);
  EXPECT_NEAR(mean[Bar::Bubble], 0.05, 1e-15);
  EXPECT_NEAR(mean.other(), (example().other() + other.other()) / 2, 1e-15);
}

TEST(Waterfall, AnEmptyStepIsDrawnWithoutDividingByZero) { EXPECT_EQ(Waterfall{}.share(0), 0); }

TEST(Waterfall, JsonHoldsSecondsByBarAndReadsBackAsItWas) {
  const Json json = example();
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"step", "forward", "backward", "recompute", "exposed_tp", "exposed_dp", "exposed_pp",
                                            "exposed_tied", "exposed_control", "bubble", "optimizer", "data", "checkpoint", "other"}));
  EXPECT_EQ(json.at("backward").get<double>(), 0.2);
  EXPECT_EQ(Json::parse(json.dump()).get<Waterfall>(), example());
}

}  // namespace tessera
