#include "parallel/shard_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "base/error.h"

namespace tessera {
namespace {

ParamDecl param(std::string name, Shape shape, TpRole role = TpRole::Replicated, bool adjacent = false, std::string tied_to = "") {
  ParamDecl decl;
  decl.name = std::move(name);
  decl.shape = shape;
  decl.role = role;
  decl.adjacent = adjacent;
  decl.tied_to = std::move(tied_to);
  return decl;
}

/// Odd widths, fused weights whose parts begin off multiples of 256, vectors, single elements, a tied head.
std::vector<UnitDecls> odd_units() {
  return {{"embedding", {param("tokens", {53, 48}), param("positions", {7, 48})}},
          {"block",
           {param("norm", {48}), param("q", {48, 48}, TpRole::Split), param("k", {17, 48}, TpRole::Split, true),
            param("v", {17, 48}, TpRole::Split, true), param("q_bias", {48}, TpRole::Split), param("k_bias", {17}, TpRole::Split, true),
            param("v_bias", {17}, TpRole::Split, true), param("one", {1}), param("odd", {37, 53}), param("wide", {3, 1024}),
            param("frozen", {1000})}},
          {"head", {param("last_norm", {48}), param("logits", {53, 48}, TpRole::Replicated, false, "tokens")}}};
}

ShardMap::GrainOf always(Grain grain) {
  return [grain](const ParamDecl&) { return grain; };
}

ShardMap map_of(std::vector<UnitDecls> units, int dp, Grain grain = Grain::Block, bool split_tied = true) {
  return ShardMap(std::move(units), dp, {}, always(grain), split_tied);
}

std::vector<std::string> names(const ShardMap& map, const Bucket& bucket) {
  std::vector<std::string> out;
  for (const BucketEntry& entry : bucket.entries) out.push_back(map.decl(bucket, entry).name);
  return out;
}

/// Whether a bucket may be cut at a multiple of 256: the rule, word by word.
bool legal(const ShardMap& map, const Bucket& bucket, int64_t position, Grain grain) {
  for (const BucketEntry& entry : bucket.entries) {
    const Shape& shape = map.decl(bucket, entry).shape;
    const int64_t inside = position - entry.offset;
    if (inside <= 0 || inside >= shape.elements()) continue;
    if (grain == Grain::Tensor) return false;
    if (grain == Grain::Row && inside % shape[shape.rank() - 1] != 0) return false;
  }
  return position % 256 == 0;
}

using GrainAndDegree = std::tuple<Grain, int>;
class ShardMapOfEveryGrain : public testing::TestWithParam<GrainAndDegree> {
 protected:
  Grain grain() const { return std::get<0>(GetParam()); }
  int dp() const { return std::get<1>(GetParam()); }
};

TEST_P(ShardMapOfEveryGrain, EveryElementOfEveryParameterIsOwnedOnce) {
  const ShardMap map = map_of(odd_units(), dp(), grain());
  std::map<std::string, std::vector<int>> owners;
  for (const Bucket& bucket : map.buckets()) {
    int64_t end_of_previous = 0;
    for (const ShardRange& range : map.ranges(bucket)) {
      const ParamDecl& decl = map.units()[bucket.unit].decls[range.decl];
      std::vector<int>& counts = owners.try_emplace(decl.name, decl.shape.elements(), 0).first->second;
      ASSERT_LT(range.begin, range.end);
      for (int64_t i = range.begin; i < range.end; i++) counts.at(i)++;
      EXPECT_EQ(range.offset, map.find(decl.name).offset + range.begin);
      EXPECT_GE(range.offset, end_of_previous) << "ranges come by offset";
      end_of_previous = range.offset + range.end - range.begin;
      EXPECT_GE(range.offset, bucket.bounds[range.owner]);
      EXPECT_LE(end_of_previous, bucket.bounds[range.owner + 1]);
    }
  }
  for (const UnitDecls& unit : map.units())
    for (const ParamDecl& decl : unit.decls) EXPECT_EQ(owners[decl.name], std::vector<int>(decl.shape.elements(), 1)) << decl.name;
}

TEST_P(ShardMapOfEveryGrain, BoundsAreTheLegalCutsNearestToEqualShares) {
  const ShardMap map = map_of(odd_units(), dp(), grain());
  for (const Bucket& bucket : map.buckets()) {
    ASSERT_EQ(static_cast<int>(bucket.bounds.size()), dp() + 1);
    EXPECT_EQ(bucket.bounds.front(), 0);
    EXPECT_EQ(bucket.bounds.back(), bucket.elements);
    EXPECT_TRUE(std::is_sorted(bucket.bounds.begin(), bucket.bounds.end()));
    for (int r = 1; r < dp(); r++) {
      EXPECT_TRUE(legal(map, bucket, bucket.bounds[r], grain())) << names(map, bucket)[0] << " " << bucket.bounds[r];
      const auto distance = [&](int64_t cut) { return std::abs(cut * dp() - r * bucket.elements); };
      for (int64_t cut = 0; cut <= bucket.elements; cut += 256)
        if (legal(map, bucket, cut, grain())) {
          EXPECT_LE(distance(bucket.bounds[r]), distance(cut)) << "nearer: " << cut;
        }
    }
  }
}

TEST_P(ShardMapOfEveryGrain, BothUsesOfATiedWeightAreCutAlike) {
  const ShardMap map = map_of(odd_units(), dp(), grain());
  const Bucket &tokens = map.buckets()[map.find("tokens").bucket], &logits = map.buckets()[map.find("logits").bucket];
  EXPECT_EQ(tokens.bounds, logits.bounds);
  EXPECT_EQ(tokens.elements, logits.elements);
}

INSTANTIATE_TEST_SUITE_P(All, ShardMapOfEveryGrain,
                         testing::Combine(testing::Values(Grain::Block, Grain::Row, Grain::Tensor), testing::Range(1, 9)));

TEST(ShardMap, CountsOfElementWiseOptimizersDifferByAtMostOneBlock) {
  for (int dp = 1; dp <= 33; dp++) {
    const ShardMap map = map_of(odd_units(), dp);
    for (const Bucket& bucket : map.buckets()) {
      int64_t least = bucket.elements, most = 0;
      for (int r = 0; r < dp; r++) {
        least = std::min(least, bucket.bounds[r + 1] - bucket.bounds[r]);
        most = std::max(most, bucket.bounds[r + 1] - bucket.bounds[r]);
      }
      EXPECT_LE(most - least, 256) << "dp=" << dp;
    }
  }
}

TEST(ShardMap, ParametersStartAtBlocksUnlessTheyAreFused) {
  const ShardMap map = map_of(odd_units(), 2);
  for (const Bucket& bucket : map.buckets()) {
    EXPECT_EQ(bucket.elements % 256, 0);
    int64_t end = 0;
    for (const BucketEntry& entry : bucket.entries) {
      const ParamDecl& decl = map.decl(bucket, entry);
      if (decl.adjacent) {
        EXPECT_EQ(entry.offset, end) << decl.name;
      }
      if (!decl.adjacent) {
        EXPECT_EQ(entry.offset % 256, 0) << decl.name;
      }
      EXPECT_GE(entry.offset, end) << decl.name;
      EXPECT_LT(entry.offset - end, 256) << decl.name << ": padding of a whole block";
      end = entry.offset + decl.shape.elements();
    }
    EXPECT_LT(bucket.elements - end, 256);
  }
  EXPECT_EQ(map.find("v").offset, map.find("q").offset + (48 + 17) * 48);
}

TEST(ShardMap, ABucketHoldsOneKindOfParameterInOrderOfFirstAppearance) {
  std::vector<UnitDecls> units = odd_units();
  units[1].decls.back().trainable = false;
  const ShardMap map = ShardMap(units, 2, {DType::bf16, DType::f32}, always(Grain::Block), true);
  std::vector<std::vector<std::string>> of_block;
  for (const Bucket& bucket : map.buckets()) {
    EXPECT_EQ(bucket.key.compute, DType::bf16);
    EXPECT_EQ(bucket.key.gradient, DType::f32);
    if (bucket.unit == 1) of_block.push_back(names(map, bucket));
  }
  EXPECT_EQ(of_block, (std::vector<std::vector<std::string>>{
                          {"norm", "one", "odd", "wide"}, {"q", "k", "v", "q_bias", "k_bias", "v_bias"}, {"frozen"}}));
}

TEST(ShardMap, UnitsNeverShareABucket) {
  const ShardMap map = map_of({{"a", {param("x", {8})}}, {"b", {param("y", {8})}}}, 1);
  ASSERT_EQ(map.buckets().size(), 2u);
  EXPECT_EQ(map.find("y").bucket, 1);
  EXPECT_EQ(map.find("y").unit, 1);
}

TEST(ShardMap, EachUseOfATiedWeightLiesAloneWhenTheModelIsSplit) {
  const ShardMap map = map_of(odd_units(), 2);
  for (const Bucket& bucket : map.buckets()) {
    const bool tied = bucket.key.group == ReduceGroup::DpThenTied;
    const std::vector<std::string> inside = names(map, bucket);
    EXPECT_EQ(tied, inside[0] == "tokens" || inside[0] == "logits");
    if (tied) {
      EXPECT_EQ(inside.size(), 1u);
    }
  }
  EXPECT_GE(map.find("tokens").bucket, 0);
  EXPECT_GE(map.find("logits").bucket, 0);
}

TEST(ShardMap, TwoUsesOfATiedWeightInOneUnitDoNotShareABucket) {
  const ShardMap map = map_of({{"a", {param("x", {8}), param("y", {8}, TpRole::Replicated, false, "x")}}}, 1);
  EXPECT_NE(map.find("x").bucket, map.find("y").bucket);
}

TEST(ShardMap, ATiedWeightIsStoredOnceWhenTheModelIsWhole) {
  const ShardMap map = map_of(odd_units(), 2, Grain::Block, /*split_tied=*/false);
  EXPECT_EQ(map.find("logits").bucket, -1);
  EXPECT_EQ(map.find("tokens").bucket, map.find("positions").bucket);
  for (const Bucket& bucket : map.buckets()) {
    EXPECT_EQ(bucket.key.group, ReduceGroup::Dp);
    for (const std::string& name : names(map, bucket)) EXPECT_NE(name, "logits");
  }
}

TEST(ShardMap, ATiedWeightIsCutByTheGrainOfTheOneItRepeats) {
  const auto grain = [](const ParamDecl& decl) { return decl.name == "tokens" ? Grain::Tensor : Grain::Block; };
  const ShardMap map(odd_units(), 4, {}, grain, true);
  EXPECT_EQ(map.buckets()[map.find("logits").bucket].bounds, map.buckets()[map.find("tokens").bucket].bounds);
}

TEST(ShardMap, MoreOwnersThanBlocksLeaveSomeWithNothing) {
  const ShardMap map = map_of({{"a", {param("x", {300})}}}, 5);
  EXPECT_EQ(map.buckets()[0].bounds, (std::vector<int64_t>{0, 0, 256, 256, 512, 512}));
  EXPECT_EQ(map.ranges(map.buckets()[0]).size(), 2u);
}

TEST(ShardMap, ATensorThatMayNotBeCutGoesToOneOwner) {
  const ShardMap map = map_of({{"a", {param("x", {64, 64}), param("y", {16, 64}), param("z", {64, 64})}}}, 3, Grain::Tensor);
  EXPECT_EQ(map.buckets()[0].bounds, (std::vector<int64_t>{0, 4096, 5120, 9216}));
}

TEST(ShardMap, FusedTensorsMayBePartedOnlyWhereABlockEnds) {
  const auto fused = [](int64_t rows) {
    return std::vector<UnitDecls>{{"a", {param("x", {rows, 32}), param("y", {rows, 32}, TpRole::Replicated, true)}}};
  };
  EXPECT_EQ(map_of(fused(8), 2, Grain::Tensor).buckets()[0].bounds, (std::vector<int64_t>{0, 256, 512}));
  EXPECT_EQ(map_of(fused(12), 2, Grain::Tensor).buckets()[0].bounds, (std::vector<int64_t>{0, 0, 768}));
}

TEST(ShardMap, AnImpossibleDeclarationIsOurFault) {
  EXPECT_THROW(map_of({{"a", {param("x", {8})}}}, 1).find("y"), InternalError);
  EXPECT_THROW(map_of({{"a", {param("x", {8}), param("x", {8})}}}, 1), InternalError);
  EXPECT_THROW(map_of({{"a", {param("x", {8}, TpRole::Split, /*adjacent=*/true)}}}, 1), InternalError);
  EXPECT_THROW(map_of({{"a", {param("x", {8}), param("y", {8}, TpRole::Replicated, false, "z")}}}, 1), InternalError);
  EXPECT_THROW(map_of({{"a", {param("x", {8}), param("y", {9}, TpRole::Replicated, false, "x")}}}, 1), InternalError);
  EXPECT_THROW(map_of({{"a", {param("x", {8})}}}, 0), InternalError);
}

TEST(ShardMap, TheLargestModelsAreMappedWithoutWalkingTheirElements) {
  std::vector<UnitDecls> units;
  for (int b = 0; b < 96; b++) {
    const std::string block = "blocks." + std::to_string(b) + ".";
    units.push_back(
        {block, {param(block + "up", {49152, 12288}), param(block + "down", {12288, 49152}), param(block + "odd", {50257, 12289})}});
  }
  for (Grain grain : {Grain::Block, Grain::Row, Grain::Tensor}) {
    const ShardMap map = map_of(units, 64, grain);
    int64_t owned = 0;
    for (const Bucket& bucket : map.buckets())
      for (const ShardRange& range : map.ranges(bucket)) owned += range.end - range.begin;
    EXPECT_EQ(owned, 96 * (int64_t{2} * 49152 * 12288 + int64_t{50257} * 12289));
  }
}

}  // namespace
}  // namespace tessera
