#include "parallel/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace tessera {
namespace {

std::vector<Layout> many_layouts() {
  std::vector<Layout> layouts;
  for (int pp : {1, 2, 3, 4})
    for (int dp : {1, 2, 5})
      for (int cp : {1, 3})
        for (int tp : {1, 2, 4}) layouts.push_back({.degrees = {pp, dp, cp, tp}});
  return layouts;
}

constexpr Axis all_axes[] = {Axis::Pp, Axis::Dp, Axis::Cp, Axis::Tp};

TEST(Layout, EveryRankComesBackFromItsCoordinates) {
  for (const Layout& layout : many_layouts())
    for (int rank = 0; rank < layout.ranks(); rank++) EXPECT_EQ(rank_of(layout, coordinates_of(layout, rank)), rank);
}

TEST(Layout, TensorParallelRanksAreNeighboursAndPipelineStagesFarthest) {
  const Layout layout{.degrees = {2, 3, 2, 4}};
  EXPECT_EQ(layout.ranks(), 48);
  EXPECT_EQ(rank_of(layout, {0, 0, 0, 1}), 1);
  EXPECT_EQ(rank_of(layout, {0, 0, 1, 0}), 4);
  EXPECT_EQ(rank_of(layout, {0, 1, 0, 0}), 8);
  EXPECT_EQ(rank_of(layout, {1, 0, 0, 0}), 24);
  EXPECT_EQ(coordinates_of(layout, 47), (Coordinates{1, 2, 1, 3}));
}

TEST(Layout, GroupsOfAnAxisPartitionTheWorld) {
  for (const Layout& layout : many_layouts())
    for (Axis axis : all_axes) {
      std::vector<int> times_seen(layout.ranks(), 0);
      for (int rank = 0; rank < layout.ranks(); rank++) {
        const std::vector<int> group = group_of(layout, axis, rank);
        ASSERT_EQ(static_cast<int>(group.size()), layout.degree(axis));
        EXPECT_EQ(group[coordinates_of(layout, rank)[static_cast<int>(axis)]], rank);
        if (group[0] != rank) continue;  // counted once, by its first member
        for (int member : group) {
          times_seen[member]++;
          EXPECT_EQ(group_of(layout, axis, member), group);
        }
      }
      EXPECT_EQ(times_seen, std::vector<int>(layout.ranks(), 1)) << name_of(axis);
    }
}

TEST(Layout, MembersOfAGroupDifferAlongItsAxisOnly) {
  for (const Layout& layout : many_layouts())
    for (Axis axis : all_axes)
      for (int rank = 0; rank < layout.ranks(); rank++)
        for (int member : group_of(layout, axis, rank)) {
          Coordinates other = coordinates_of(layout, member);
          other[static_cast<int>(axis)] = coordinates_of(layout, rank)[static_cast<int>(axis)];
          EXPECT_EQ(rank_of(layout, other), rank);
        }
}

TEST(Layout, ATiedWeightMeetsAcrossTheFirstAndLastStage) {
  for (const Layout& layout : many_layouts()) {
    const int last = layout.degree(Axis::Pp) - 1;
    for (int rank = 0; rank < layout.ranks(); rank++) {
      const std::vector<int> stages = group_of(layout, Axis::Pp, rank), tied = tied_group_of(layout, rank);
      const int stage = coordinates_of(layout, rank)[static_cast<int>(Axis::Pp)];
      if (last == 0)
        EXPECT_EQ(tied, std::vector<int>{rank});
      else if (stage == 0 || stage == last)
        EXPECT_EQ(tied, (std::vector<int>{stages.front(), stages.back()}));
      else
        EXPECT_TRUE(tied.empty());
    }
  }
}

TEST(Layout, MicroBatchesShareTheBatchOfOneReplica) {
  EXPECT_EQ((Layout{.degrees = {4, 2, 1, 1}, .batch_size = 48, .micro_batch_size = 3}.micro_batches()), 8);
}

TEST(Layout, APlaceOutsideTheWorldIsOurFault) {
  const Layout layout{.degrees = {2, 2, 1, 1}};
  EXPECT_THROW(coordinates_of(layout, 4), InternalError);
  EXPECT_THROW(coordinates_of(layout, -1), InternalError);
  EXPECT_THROW(rank_of(layout, {0, 2, 0, 0}), InternalError);
}

}  // namespace
}  // namespace tessera
