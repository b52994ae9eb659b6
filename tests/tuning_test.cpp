#include "engine/tuning.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/dry_run.h"
#include "kernels/arena.h"
#include "tests/tiny_run.h"

namespace tessera {
namespace {

constexpr ShapeKey small_linear{{64, 32, 48, 1}, DType::f32};

/// A device with memory beside its workspace.
std::unique_ptr<Device> device_with(int64_t bytes) {
  auto device = Device::cpu(1);
  ArenaSize size = device->workspace_size();
  size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] += bytes;
  device->reserve(size);
  return device;
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(Tuning, FindsEveryDistinctOpThatHasAChoice) {
  const ResolvedRun run = resolve_tiny({});
  const auto device = Device::cpu(1);
  const Trace trace = dry_run(run, 0, device->traits(), true).trace;
  const TuningTable ops = ops_to_tune(*device, trace);
  ASSERT_FALSE(ops.empty());
  for (const TunedOp& op : ops) {
    EXPECT_EQ(std::ranges::count_if(ops, [&](const TunedOp& other) { return other.kind == op.kind && other.shape == op.shape; }), 1);
    EXPECT_EQ(op.choice, device->matmul().candidates(op.kind, op.shape).front());
  }
  for (const TraceEntry& entry : trace) {
    if (entry.info.kind == OpKind::LinearForward) {
      EXPECT_NE(find(ops, entry.info.kind, entry.info.shape), nullptr);
    }
  }
}

TEST(Tuning, TimesEveryCandidateOnMemoryNobodyHasYetAndLeavesZeros) {
  const auto device = device_with(1 << 20);
  const TunedOp op =
      measured(*device, {.kind = OpKind::LinearForward, .shape = small_linear, .choice = "sgemm", .measured = {}, .device = {}});
  ASSERT_EQ(op.measured.size(), device->matmul().candidates(op.kind, op.shape).size());
  for (const TimedCandidate& candidate : op.measured) {
    EXPECT_GT(candidate.seconds, 0);
    EXPECT_LT(candidate.seconds, 10);
  }
  EXPECT_NE(std::ranges::find(op.measured, op.choice, &TimedCandidate::name), op.measured.end());
  EXPECT_EQ(device->arena().untaken().size(), size_t{1} << 20);
  EXPECT_TRUE(all_zero(device->arena().untaken()));
}

TEST(Tuning, WhereMemoryIsTooSmallTheRuleStays) {
  const auto device = device_with(1024);
  const TunedOp op =
      measured(*device, {.kind = OpKind::LinearForward, .shape = small_linear, .choice = "sgemm", .measured = {}, .device = {}});
  EXPECT_EQ(op.choice, "sgemm");
  EXPECT_TRUE(op.measured.empty());
}

TEST(Tuning, ATableBecomesTextAndATableAgain) {
  const TuningTable table = {{.kind = OpKind::LinearBackwardInput,
                              .shape = {{1, 2, 3}, DType::bf16},
                              .choice = "converted",
                              .measured = {{"primitive", 0.5}, {"converted", 0.25}},
                              .device = "a machine, 3 threads"}};
  const TuningTable again = read_tuning(tuning_text(table), "here");
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].kind, table[0].kind);
  EXPECT_EQ(again[0].shape, table[0].shape);
  EXPECT_EQ(again[0].choice, "converted");
  ASSERT_EQ(again[0].measured.size(), 2u);
  EXPECT_EQ(again[0].measured[1].seconds, 0.25);
  EXPECT_EQ(again[0].device, "a machine, 3 threads");
}

TEST(Tuning, ATextThatIsNoTableIsRefusedByName) {
  for (const char* text : {"", "{}", "[1]", R"({"ops": [{"op": "linear_forward"}]})",
                           R"({"ops": [{"op": 7, "shape": [], "dtype": "fp32", "choice": "", "seconds": {}, "device": ""}]})"}) {
    try {
      read_tuning(text, "some.json");
      FAIL() << text;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("some.json"), std::string::npos);
    }
  }
}

TEST(Tuning, WhatIsUnknownHereIsLeftToTheRuleAndCounted) {
  const auto device = device_with(1 << 20);
  EXPECT_EQ(choose(*device, {{.kind = OpKind::LinearForward, .shape = small_linear, .choice = "tensor cores", .measured = {}, .device = {}},
                             {.kind = OpKind::Count, .shape = small_linear, .choice = "sgemm", .measured = {}, .device = {}},
                             {.kind = OpKind::LinearForward, .shape = small_linear, .choice = "primitive", .measured = {}, .device = {}}}),
            2);
}

/// The text of each rank's table, how many ops each rank can choose for, and what its device computes each op of its table with.
struct RanksTables {
  std::vector<std::string> texts;
  std::vector<size_t> listed;
  std::vector<std::vector<std::string>> in_use;
};

std::string in_use(Device& device, const TunedOp& op) {
  return is_linear(op.kind) ? device.matmul().choice(op.kind, op.shape) : device.attention().choice(op.kind, op.shape);
}

RanksTables tune_ranks(const TinyRun& tiny, const std::string& saved) {
  const ResolvedRun run = resolve_tiny(tiny);
  const auto ranks = static_cast<size_t>(tiny.ranks);
  RanksTables tables{std::vector<std::string>(ranks), std::vector<size_t>(ranks), std::vector<std::vector<std::string>>(ranks)};
  run_thread_ranks(tiny.ranks, [&](HostGroup& host) {
    const auto device = Device::cpu(1);
    const DryRun dry = dry_run(run, host.rank(), device->traits(), true);
    device->reserve(dry.size);
    Messages messages;
    tables.listed[host.rank()] = ops_to_tune(*device, dry.trace).size();
    const TuningTable table = tune(run, dry.trace, host.rank() == 0 ? saved : "", *device, host, messages);
    tables.texts[host.rank()] = tuning_text(table);
    for (const TunedOp& op : table) tables.in_use[host.rank()].push_back(in_use(*device, op));
  });
  return tables;
}

TEST(TuningRanks, EveryRankGetsTheSameTableAndNoOpIsTimedTwice) {
  const TinyRun tiny{.sets = {"parallel.pp=2", "train.tuning=measure"}, .ranks = 2};
  const RanksTables tables = tune_ranks(tiny, {});
  EXPECT_EQ(tables.texts[0], tables.texts[1]);
  const TuningTable table = read_tuning(tables.texts[0], "the table");
  EXPECT_GT(table.size(), tables.listed[0]) << "the last stage has ops of its own: the head's";
  EXPECT_LT(table.size(), tables.listed[0] + tables.listed[1]) << "both stages have blocks";
  for (const TunedOp& op : table) {
    EXPECT_EQ(&op, find(table, op.kind, op.shape));
    EXPECT_FALSE(op.measured.empty());
  }
}

TEST(TuningRanks, EveryRankComputesAsTheTableSaysWhetherItTimedTheOpOrNot) {
  for (const std::string dtype : {"fp32", "bf16"}) {
    const TinyRun tiny{.sets = {"parallel.pp=2", "train.tuning=measure", "precision.compute=" + dtype}, .ranks = 2};
    TuningTable table = read_tuning(tune_ranks(tiny, {}).texts[0], "the table");
    std::vector<std::string> choices;
    for (TunedOp& op : table) choices.push_back(op.choice = op.measured.back().name);  // the rule's is the first
    const RanksTables tables = tune_ranks(tiny, tuning_text(table));
    EXPECT_EQ(tables.in_use[0], choices);
    EXPECT_EQ(tables.in_use[1], choices);
  }
}

TEST(TuningRanks, AnOpOfAnotherVersionIsDroppedFromTheTable) {
  const std::string other = R"({"ops": [{"op": "conv", "shape": [1], "dtype": "fp8", "choice": "x", "seconds": {}, "device": "y"}]})";
  const TinyRun tiny{.sets = {"train.tuning=measure"}};
  EXPECT_EQ(tune_ranks(tiny, other).listed[0], read_tuning(tune_ranks(tiny, other).texts[0], "the table").size());
}

TEST(TuningRanks, WhatWasSavedIsNotTimedAgain) {
  const TinyRun tiny{.sets = {"train.tuning=measure"}};
  const std::string first = tune_ranks(tiny, {}).texts[0];
  EXPECT_EQ(tune_ranks(tiny, first).texts[0], first);
}

TEST(TuningRanks, FixedTimesNothing) { EXPECT_TRUE(read_tuning(tune_ranks({}, {}).texts[0], "the table").empty()); }

}  // namespace
}  // namespace tessera
