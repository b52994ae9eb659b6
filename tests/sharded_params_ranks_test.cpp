// The exchange on real communicators, with gradients written by hand.
#include "parallel/sharded_params.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/packed_weight.h"
#include "base/random.h"
#include "engine/trainer.h"
#include "tests/tiny_run.h"

namespace tessera {

namespace {

/// Gradient `i` of parameter `name` as replica `dp` of stage `pp` computes it: values whose sum depends on the order of the additions.
float invented(const std::string& name, int pp, int dp, int64_t i) {
  return RandomStream(static_cast<uint64_t>(1 + pp * 16 + dp), RandomPurpose::Sample, name).normal(static_cast<uint64_t>(i)) *
         (dp == 0 ? 1e4f : 1.0f);
}

/// Overwrites the gradients of `trainer` with invented ones, reduces them, and compares what must then be summed with a plain loop.
void check_reduce(Trainer& trainer) {
  const ShardMap& map = trainer.params().map();
  const Layout& layout = trainer.run().layout;
  const int pp = trainer.mesh().coordinate(Axis::Pp), dp = layout.degree(Axis::Dp), last = layout.degree(Axis::Pp) - 1;
  const auto fill = [&](int stage, int replica, const LocalBucket& local, auto&& put) {
    for (const BucketEntry& entry : local.bucket->entries) {
      const ParamDecl& decl = map.decl(*local.bucket, entry);
      for (int64_t i = 0; i < decl.shape.elements(); i++)
        put(entry.offset + i, invented(decl.tied_to.empty() ? decl.name : decl.tied_to, stage, replica, i));
    }
  };
  for (const LocalBucket& local : trainer.params().buckets()) {
    fill(pp, trainer.mesh().coordinate(Axis::Dp), local, [&](int64_t at, float value) { local.gradients.as<float>()[at] = value; });
  }
  trainer.params().reduce(trainer.device().compute());
  for (const LocalBucket& local : trainer.params().buckets()) {
    const auto sum_over_dp = [&](int stage) {
      std::vector<float> sum(static_cast<size_t>(local.bucket->elements));
      for (int replica = 0; replica < dp; replica++) {
        fill(stage, replica, local, [&](int64_t at, float value) { sum[at] = replica == 0 ? value : sum[at] + value; });
      }
      return sum;
    };
    const bool tied = local.bucket->key.group == ReduceGroup::DpThenTied;
    std::vector<float> expected = sum_over_dp(tied ? 0 : pp);
    if (tied) {  // embedding first, then head
      const std::vector<float> head = sum_over_dp(last);
      for (size_t i = 0; i < expected.size(); i++) expected[i] += head[i];
    }
    // ZeRO-0 holds the whole sum on every replica, ZeRO-1 its own shard.
    for (int64_t i = local.update_begin; i < local.update_end; i++)
      ASSERT_EQ(local.gradients.as<float>()[i], expected[i]) << "element " << i;
  }
}

/// Packs every linear weight once more, and expects what the parameters keep.
void check_packed(Trainer& trainer) {
  Device& device = trainer.device();
  const StageRange range = trainer.stage().range();
  for (int unit = range.first_unit(); unit < range.last_unit(); unit++) {
    const UnitView& view = trainer.params().gather(unit, device.compute());
    const auto weights = linear_weights(trainer.params().map().units()[unit]);
    EXPECT_EQ(weights.size(), unit == 0 ? 0u : unit == range.last_unit() - 1 && range.last ? 1u : 4u) << "unit " << unit;
    for (const LinearWeight& weight : weights) {
      const Tensor whole = fused(view.weights, weight.decl, weight.count);
      for (const PackedFor use : {PackedFor::Forward, PackedFor::BackwardInput}) {
        const Tensor kept = use == PackedFor::Forward ? view.packed[weight.decl].forward : view.packed[weight.decl].backward_input;
        ASSERT_EQ(kept.elements(), packed_elements(whole.columns(), whole.rows()));
        std::vector<bf16_t> fresh(static_cast<size_t>(kept.elements()));
        device.matmul().pack_weight(Tensor(fresh.data(), DType::bf16, kept.shape), whole, use, device.compute());
        EXPECT_EQ(std::memcmp(fresh.data(), kept.data, fresh.size() * sizeof(bf16_t)), 0) << "unit " << unit;
      }
    }
  }
}

}  // namespace

TEST(ShardedParamsRanks, PackedWeightsFollowTheWeights) {
  if (!processor_packs_weights()) GTEST_SKIP() << "this machine has no AVX-512";
  const std::vector<std::string> packed = {"precision.compute=bf16", "precision.packed_weights=on"};
  for (const auto& [sets, ranks] :
       std::vector<std::pair<std::vector<std::string>, int>>{{{}, 1}, {{"parallel.dp=2", "parallel.zero=1"}, 2}, {{"parallel.pp=2"}, 2}}) {
    std::vector<std::string> all = packed;
    all.insert(all.end(), sets.begin(), sets.end());
    run_tiny({.sets = all,
              .ranks = ranks,
              .steps = 2,
              .start = [](Trainer& trainer) { trainer.initialize(), check_packed(trainer); },
              .finish = check_packed});
  }
}

TEST(ShardedParamsRanks, GradientsAreAddedInRankOrderAndATiedPairsSumsMeet) {
  for (const auto& [sets, ranks] :
       std::vector<std::pair<std::vector<std::string>, int>>{{{"parallel.dp=2"}, 2},
                                                             {{"parallel.dp=4", "parallel.zero=1"}, 4},
                                                             {{"parallel.pp=2"}, 2},
                                                             {{"parallel.pp=2", "parallel.dp=2"}, 4},
                                                             {{"parallel.pp=2", "parallel.dp=2", "parallel.zero=1"}, 4}}) {
    run_tiny({.sets = sets, .ranks = ranks, .steps = 0, .start = [](Trainer& trainer) {
                trainer.initialize();
                check_reduce(trainer);
              }});
  }
}

TEST(ShardedParamsRanks, RanksThatOwnNothingTakePart) {
  run_tiny({.sets = {"model.layers=1", "model.heads=1", "model.hidden=8", "train.batch_size=16", "train.micro_batch_size=1",
                     "parallel.dp=16", "parallel.zero=1"},
            .ranks = 16,
            .steps = 1,
            .start = [](Trainer& trainer) {
              trainer.initialize();
              if (trainer.mesh().rank() == 15) {
                for (const LocalBucket& local : trainer.params().buckets()) EXPECT_EQ(local.owned_begin, local.owned_end);
              }
              check_reduce(trainer);
            }});
}

TEST(ShardedParamsRanks, InitialWeightsDependOnNameAndElementOnly) {
  const TinyResult one = run_tiny({.steps = 0});
  for (const auto& [sets, ranks] :
       std::vector<std::pair<std::vector<std::string>, int>>{{{"parallel.dp=2", "parallel.zero=1"}, 2}, {{"parallel.pp=4"}, 4}}) {
    EXPECT_EQ(run_tiny({.sets = sets, .ranks = ranks, .steps = 0}).weights, one.weights);
  }
  EXPECT_NE(one.weights.at("blocks.0.attention.q_proj.weight"), one.weights.at("blocks.0.attention.k_proj.weight"));
}

}  // namespace tessera
