#include "engine/step_bench.h"

#include <gtest/gtest.h>

#include "engine/dry_run.h"
#include "parallel/host_group.h"
#include "tests/tiny_run.h"

namespace tessera {

TEST(StepBench, CountsEveryOpOfAStepWithTheDryRunsPrices) {
  const ResolvedRun run = resolve_tiny({.sets = {"precision.compute=bf16"}, .steps = 10});
  const auto device = Device::cpu(1);
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
  EXPECT_GT(bench.matmul_flops_per_second, 0);
  EXPECT_GT(bench.bytes_per_second, 0);
  EXPECT_GT(bench.floor_seconds(), 0);
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
