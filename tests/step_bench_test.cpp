#include "engine/step_bench.h"

#include <gtest/gtest.h>

#include "engine/dry_run.h"
#include "parallel/host_group.h"
#include "tests/op_test.h"
#include "tests/tiny_run.h"

namespace tessera {

TEST(StepBench, CountsEveryOpOfAStepWithTheDryRunsPrices) {
  const DeviceKind kind = op_test::kind_under_test();
  const ResolvedRun run =
      resolve_tiny({.sets = {"model.layers=2", "model.hidden=16", "model.heads=2", "precision.compute=bf16"}, .device = kind});
  const auto device = Device::real(kind, 0, 1);
  device->reserve(dry_run(run, 0, device->traits()).size);
  const auto host = make_self_group();
  Mesh mesh(run.layout, *host);
  Trainer trainer(run, *device, mesh);
  const StepBench bench = bench_step(trainer, 0);
  EXPECT_GE(bench.steps, 3);
  double flops = 0, expected_flops = 0;
  int64_t calls = 0, expected_calls = 0;
  for (const OpCost& op : bench.ops) {
    flops += op.info.flops * static_cast<double>(op.calls), calls += op.calls;
    EXPECT_GE(op.seconds, 0);
    EXPECT_GE(op.floor_seconds, 0);
  }
  for (const TraceEntry& entry : dry_run(run, 0, device->traits(), true).trace) {
    if (entry.info.launches > 0) expected_flops += entry.info.flops, expected_calls++;
  }
  EXPECT_EQ(calls, expected_calls);
  EXPECT_NEAR(flops / expected_flops, 1, 1e-12);
  EXPECT_GT(bench.ceilings.matmul_flops_per_second, 0);
  EXPECT_GT(bench.ceilings.bytes_per_second, 0);
  EXPECT_GT(bench.floor_seconds(), 0);
}

TEST(StepBench, PricesMatmulsAndAttentionByFlopsAndAllOthersByBytes) {
  const Ceilings ceilings{.matmul_flops_per_second = 200, .bytes_per_second = 10};
  for (int k = 0; k < op_kinds; k++) {
    const auto kind = static_cast<OpKind>(k);
    const bool by_flops = kind == OpKind::LinearForward || kind == OpKind::LinearBackwardInput || kind == OpKind::LinearBackwardWeight ||
                          kind == OpKind::AttentionForward || kind == OpKind::AttentionBackward;
    const OpInfo op{.kind = kind, .shape = {}, .flops = 600, .read_bytes = 50, .write_bytes = 20};
    EXPECT_DOUBLE_EQ(floor_seconds(op, ceilings), by_flops ? 3 : 7) << k;
  }
}

TEST(StepBench, CountsATimeInsideAnOpAsSuchInSlowStepsToo) {
  const auto step = [](double adam, double zero) {
    const TraceEntry entry{.info = {.kind = OpKind::AdamW, .shape = {}}, .stream = "compute"};
    Trace trace{entry, entry};
    trace[0].seconds = adam, trace[1].seconds = zero;
    return trace;
  };
  // Each step spends 1 s outside, and another op is slow in each: the ops' medians add up to 4 s, the median step is 8 s.
  const std::vector<Trace> steps = {step(2, 5), step(5, 2), step(2, 2)};
  const std::vector<double> seconds = {8, 8, 5};
  EXPECT_DOUBLE_EQ(seconds_outside_ops(steps, seconds), 1);
}

TEST(StepBench, RandomSamplesAreTokensAndAFunctionOfTheirNumber) {
  const RandomSamples samples(96);
  std::vector<int32_t> first(17), again(17), second(17);
  samples.sample(3, first), samples.sample(3, again), samples.sample(4, second);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, second);
  for (const int32_t token : first) EXPECT_TRUE(token >= 0 && token < 96);
}

}  // namespace tessera
