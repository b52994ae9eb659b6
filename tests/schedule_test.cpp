#include "parallel/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"

namespace tessera {
namespace {

/// "F0 F1 B0": what one rank of a pipeline with a chunk a rank computes.
std::string text(const std::vector<ComputeAction>& actions) {
  std::string out;
  for (const ComputeAction& action : actions) {
    if (!out.empty()) out += " ";
    out += action.kind == ActionKind::Forward ? "F" : "B";
    out += std::to_string(action.microbatch);
  }
  return out;
}

/// How often each action stands on the rank of its chunk; -1 counts strays.
std::map<std::pair<ActionKind, std::pair<int, int>>, int> counts(const ComputeSchedule& schedule, const Placement& placement) {
  std::map<std::pair<ActionKind, std::pair<int, int>>, int> counted;
  for (size_t p = 0; p < schedule.actions.size(); p++)
    for (const ComputeAction& action : schedule.actions[p]) {
      EXPECT_EQ(placement.rank_of_chunk[action.chunk], static_cast<int>(p));
      counted[{action.kind, {action.chunk, action.microbatch}}]++;
    }
  return counted;
}

TEST(Schedule, OneForwardOneBackwardIsTheFigureOfThePaper) {
  const ComputeSchedule schedule = one_f_one_b(one_chunk_per_rank(4), 6);
  EXPECT_EQ(text(schedule.actions[0]), "F0 F1 F2 F3 B0 F4 B1 F5 B2 B3 B4 B5");
  EXPECT_EQ(text(schedule.actions[1]), "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 B4 B5");
  EXPECT_EQ(text(schedule.actions[2]), "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 B5");
  EXPECT_EQ(text(schedule.actions[3]), "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5");
}

TEST(Schedule, FewMicroBatchesMakeAShortWarmUp) {
  const ComputeSchedule schedule = one_f_one_b(one_chunk_per_rank(4), 2);
  EXPECT_EQ(text(schedule.actions[0]), "F0 F1 B0 B1");
  EXPECT_EQ(text(schedule.actions[3]), "F0 B0 F1 B1");
}

TEST(Schedule, GpipeFinishesAllForwardsFirst) {
  for (const std::vector<ComputeAction>& actions : gpipe(one_chunk_per_rank(3), 3).actions) EXPECT_EQ(text(actions), "F0 F1 F2 B0 B1 B2");
}

TEST(Schedule, GpipeGoesThroughSeveralChunksByDepthAndBack) {
  const Placement placement{{0, 1, 0, 1}};
  const ComputeSchedule schedule = gpipe(placement, 2);
  std::vector<int> chunks;
  for (const ComputeAction& action : schedule.actions[1]) chunks.push_back(action.chunk);
  EXPECT_EQ(chunks, (std::vector<int>{1, 1, 3, 3, 3, 3, 1, 1}));
  EXPECT_EQ(text(schedule.actions[1]), "F0 F1 F0 F1 B0 B1 B0 B1");
}

TEST(Schedule, EveryChunkComputesEveryMicroBatchOnceEachWay) {
  for (const char* name : {"gpipe", "1f1b"})
    for (int pp : {1, 2, 3, 5, 8})
      for (int m : {1, 2, 4, 7, 16}) {
        const Placement placement = one_chunk_per_rank(pp);
        const auto counted = counts(make_schedule(name, placement, m), placement);
        EXPECT_EQ(static_cast<int>(counted.size()), 2 * pp * m) << name << " pp=" << pp << " m=" << m;
        for (const auto& [action, count] : counted) EXPECT_EQ(count, 1);
      }
}

TEST(Schedule, BackwardsStandInMicroBatchOrderWhateverTheSchedule) {
  for (const char* name : {"gpipe", "1f1b"})
    for (const std::vector<ComputeAction>& actions : make_schedule(name, one_chunk_per_rank(4), 9).actions) {
      int expected = 0;
      for (const ComputeAction& action : actions)
        if (action.kind == ActionKind::Backward) {
          EXPECT_EQ(action.microbatch, expected++);
        }
      EXPECT_EQ(expected, 9);
    }
}

TEST(Schedule, ForwardOnlyHasNoBackward) {
  const Placement placement{{0, 1, 0, 1}};
  const auto counted = counts(forward_only(placement, 3), placement);
  EXPECT_EQ(counted.size(), 12u);
  for (const auto& [action, count] : counted) EXPECT_EQ(action.first, ActionKind::Forward);
}

TEST(Schedule, OneForwardOneBackwardRefusesSeveralChunksARankAndSaysWhatIsLegal) {
  try {
    make_schedule("1f1b", Placement{{0, 1, 0, 1}}, 4);
    FAIL() << "was accepted";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.text().legal, "one chunk a rank");
    EXPECT_NE(error.text().what.find("4 chunks of the model on 2 pipeline ranks"), std::string::npos) << error.what();
  }
}

TEST(Schedule, AnUnknownNameIsAConfigErrorWithASuggestion) {
  try {
    make_schedule("g-pipe", one_chunk_per_rank(2), 4);
    FAIL() << "was accepted";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.text().legal, "\"gpipe\", \"1f1b\"");
    EXPECT_EQ(error.text().hint, "did you mean \"gpipe\"?");
  }
}

TEST(Schedule, MoreMicroBatchesThanTheirNumbersHoldAreAConfigError) {
  EXPECT_EQ(gpipe(one_chunk_per_rank(1), 32767).actions[0].back().microbatch, 32766);
  EXPECT_THROW(gpipe(one_chunk_per_rank(1), 32768), ConfigError);
  EXPECT_THROW(one_f_one_b(one_chunk_per_rank(1), 32768), ConfigError);
  EXPECT_THROW(gpipe(one_chunk_per_rank(1), 0), InternalError);
}

}  // namespace
}  // namespace tessera
