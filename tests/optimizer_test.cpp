#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/error.h"
#include "tests/op_test.h"

namespace tessera {
namespace {

using namespace op_test;

ParamDecl param(std::string name, Shape shape, bool decay, std::string tied_to = "") {
  ParamDecl decl;
  decl.name = std::move(name);
  decl.shape = shape;
  decl.init = {Init::Kind::Normal, 1};
  decl.decay = decay;
  decl.tied_to = std::move(tied_to);
  return decl;
}

/// Odd sizes, neighbours with and without gaps between them, a parameter that stays as it is.
std::vector<UnitDecls> some_units() {
  std::vector<UnitDecls> units = {{"embedding", {param("tokens", {53, 48}, true)}},
                                  {"block",
                                   {param("norm", {48}, false), param("a", {16, 64}, true), param("b", {16, 48}, true),
                                    param("bias", {37}, false), param("c", {64, 64}, true), param("frozen", {1000}, true)}},
                                  {"head", {param("last_norm", {48}, false), param("logits", {53, 48}, true, "tokens")}}};
  units[1].decls[5].trainable = false;
  return units;
}

ShardMap map_of(int dp, const Precision& precision = {}, bool split_tied = false) {
  return ShardMap(some_units(), dp, precision, Optimizer::grain, split_tied);
}

TEST(Optimizer, RulesAndTheirStatesHaveNames) {
  const auto names = [](std::string_view rule) {
    std::string text;
    for (const OptimizerStateDecl& state : Optimizer::states(update_rule_named(rule), DType::bf16)) {
      EXPECT_EQ(state.dtype, DType::bf16);
      text += state.name + ' ';
    }
    return text;
  };
  EXPECT_EQ(names("sgd"), "");
  EXPECT_EQ(names("momentum"), "momentum ");
  EXPECT_EQ(names("adagrad"), "sum ");
  EXPECT_EQ(names("adam"), "m v ");
  EXPECT_EQ(names("adamw"), "m v ");
  EXPECT_NE(update_rule_named("adam"), update_rule_named("adamw"));
  EXPECT_THROW(update_rule_named("lion"), InternalError);
}

TEST(UpdateSegments, NameEveryTrainedElementOnceWithItsParametersDecayAndRandomNumbers) {
  const OptimizerSettings settings{.weight_decay = 0.25, .seed = 9};
  for (const int dp : {1, 2, 5}) {
    const ShardMap map = map_of(dp);
    for (const Bucket& bucket : map.buckets()) {
      std::vector<const ParamDecl*> decl_at(static_cast<size_t>(bucket.elements));
      std::vector<int64_t> element_at(static_cast<size_t>(bucket.elements), -1);
      for (const BucketEntry& entry : bucket.entries) {
        const ParamDecl& decl = map.decl(bucket, entry);
        for (int64_t i = 0; decl.trainable && i < decl.shape.elements(); i++) {
          decl_at[entry.offset + i] = &decl, element_at[entry.offset + i] = i;
        }
      }
      for (int rank = 0; rank < dp; rank++) {
        const int64_t begin = bucket.bounds[rank], end = bucket.bounds[rank + 1];
        std::vector<int64_t> elements(static_cast<size_t>(end - begin), -1);
        for (const UpdateSegment& segment : update_segments(map, bucket, begin, end, settings, false)) {
          const ParamDecl& decl = *decl_at.at(begin + segment.begin);
          EXPECT_EQ(segment.decay, decl.decay ? 0.25f : 0.0f);
          EXPECT_EQ(segment.rounding.words(0), RandomStream(9, RandomPurpose::Rounding, decl.name).words(0));
          for (int64_t i = segment.begin; i < segment.end; i++) {
            EXPECT_EQ(elements.at(i), -1);
            elements[i] = segment.first + i - segment.begin;
          }
        }
        EXPECT_TRUE(std::equal(elements.begin(), elements.end(), element_at.begin() + begin)) << "rank " << rank << " of " << dp;
      }
    }
  }
}

TEST(UpdateSegments, NeighboursWithTheSameDecayMayBeOne) {
  const ShardMap map = map_of(1);
  const auto count = [&](bool merge) {
    size_t segments = 0;
    for (const Bucket& bucket : map.buckets()) segments += update_segments(map, bucket, 0, bucket.elements, {}, merge).size();
    return segments;
  };
  EXPECT_EQ(count(false), 7u);
  EXPECT_EQ(count(true), 6u) << "only a and b touch: a has 4 x 256 elements";
}

TEST(UpdateSegments, BothUsesOfATiedWeightDrawTheSameNumbers) {
  const ShardMap map = map_of(1, {}, true);
  const auto key_of = [&](const char* name) {
    const Bucket& bucket = map.buckets()[map.find(name).bucket];
    return update_segments(map, bucket, 0, bucket.elements, {}, false).at(0).rounding.key();
  };
  EXPECT_EQ(key_of("logits"), key_of("tokens"));
  EXPECT_NE(key_of("c"), key_of("tokens"));
}

/// Masters, weights in use and states by "kind/name" after three steps on `dp` ranks, from values and gradients that follow names alone.
std::map<std::string, std::vector<float>> trained(int dp, int zero, const Precision& precision, UpdateRule rule) {
  std::map<std::string, std::vector<float>> all;
  std::mutex mutex;
  run_thread_ranks(
      dp,
      [&](HostGroup& host) {
        Layout layout;
        layout.degrees = {1, dp, 1, 1};
        layout.zero = zero;
        TestDevice device = TestDevice::cpu(1);
        Mesh mesh(layout, host);
        const ShardMap map = map_of(dp, precision);
        ShardedParams params(map, precision, 1, 0, static_cast<int>(map.units().size()), mesh, *device.operator->());
        Optimizer optimizer({.rule = rule, .moment = precision.moment}, params, *device.operator->());
        params.initialize(*device.operator->());
        const auto for_each_owned =
            [&](auto&& visit) {  // (local bucket, its number, name, elements [from, to) of the bucket, first one's index)
              for (size_t b = 0; b < params.buckets().size(); b++) {
                const LocalBucket& local = params.buckets()[b];
                for (const BucketEntry& entry : local.bucket->entries) {
                  const ParamDecl& decl = map.decl(*local.bucket, entry);
                  const int64_t from = std::max(entry.offset, local.update_begin);
                  const int64_t to = std::min(entry.offset + decl.shape.elements(), local.update_end);
                  if (from < to) visit(local, b, decl, from, to, from - entry.offset);
                }
              }
            };
        for (int step = 0; step < 3; step++) {
          for_each_owned([&](const LocalBucket& local, size_t, const ParamDecl& decl, int64_t from, int64_t to, int64_t first) {
            const auto whole = random_values(decl.shape.elements(), decl.name + std::to_string(step));
            const Tensor there = device.tensor({to - from}, {whole.begin() + first, whole.begin() + first + to - from}, precision.gradient);
            device->write(local.gradients.flat_range(from, to), there.data, there.bytes());
          });
          const StepControl control{.applied_steps = step + 1};
          optimizer.update(1e-2, step, &control, device.stream());
        }
        const std::lock_guard lock(mutex);
        for_each_owned([&](const LocalBucket& local, size_t b, const ParamDecl& decl, int64_t from, int64_t to, int64_t first) {
          const auto keep = [&](const std::string& kind, Tensor flat, int64_t origin) {
            std::vector<float>& values = all[kind + '/' + decl.name];
            values.resize(static_cast<size_t>(decl.shape.elements()));
            const std::vector<float> part = device.values(flat.flat_range(from - origin, to - origin));
            std::copy(part.begin(), part.end(), values.begin() + first);
          };
          keep("master", local.master, local.update_begin);
          keep("weight", local.weights, 0);
          for (size_t s = 0; s < optimizer.states().size(); s++)
            keep(optimizer.states()[s].name, optimizer.state(b, s), local.update_begin);
        });
      },
      60);
  return all;
}

TEST(OptimizerRanks, ShardsUpdateToTheSameBitsAsTheWhole) {
  for (const UpdateRule rule : {UpdateRule::Sgd, UpdateRule::Momentum, UpdateRule::AdamW}) {
    for (const Precision precision : {Precision{}, Precision{DType::f16, DType::f32, DType::f32, DType::f32},
                                      Precision{DType::bf16, DType::bf16, DType::bf16, DType::bf16}}) {
      const auto whole = trained(1, 0, precision, rule);
      EXPECT_EQ(whole.size(), 8 * (2 + Optimizer::states(rule, DType::f32).size()));
      EXPECT_EQ(trained(2, 1, precision, rule), whole) << name_of(precision.compute);
      EXPECT_EQ(trained(3, 1, precision, rule), whole) << name_of(precision.compute);
      EXPECT_EQ(trained(2, 0, precision, rule), whole) << name_of(precision.compute);
    }
  }
}

TEST(OptimizerRanks, TheWeightInUseIsTheMasterRoundedAndWhatIsNotTrainedStays) {
  for (const DType compute : compute_types) {
    const auto after = trained(1, 0, {compute, DType::f32, DType::f32, DType::f32}, UpdateRule::AdamW);
    for (const UnitDecls& unit : some_units()) {
      for (const ParamDecl& decl : unit.decls) {
        if (!decl.tied_to.empty()) continue;
        const std::vector<float>& master = after.at("master/" + decl.name);
        EXPECT_EQ(after.at("weight/" + decl.name), rounded_to(compute, master)) << decl.name;
        std::vector<float> before(master.size());
        const RandomStream random(1, RandomPurpose::Init, decl.name);
        for (size_t i = 0; i < before.size(); i++) before[i] = random.normal(i);
        EXPECT_EQ(master == before, !decl.trainable) << decl.name;
      }
    }
  }
}

}  // namespace
}  // namespace tessera
