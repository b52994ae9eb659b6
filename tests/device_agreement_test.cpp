// The device under test trains as the cpu does: same trainer, same numbers within the bounds of docs/numerics.md, same account of memory.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string_view>

#include "engine/dry_run.h"
#include "tests/op_test.h"
#include "tests/tiny_run.h"

namespace tessera {
namespace {

struct DeviceCase {
  std::string name;
  std::vector<std::string> sets;
  int ranks = 1;
  friend void PrintTo(const DeviceCase& run, std::ostream* out) { *out << run.name; }
};

class DeviceRanks : public testing::TestWithParam<DeviceCase> {
 protected:
  void SetUp() override {
    if (op_test::kind_under_test() == DeviceKind::Cpu) GTEST_SKIP() << "the device under test is the cpu";
  }
  TinyRun tiny(DeviceKind device, const std::string& compute, int64_t steps = 10) const {
    std::vector<std::string> sets = GetParam().sets;
    for (const char* set :
         {"model.layers=2", "model.heads=2", "model.hidden=16", "model.vocab=40", "model.context=8", "train.batch_size=4"}) {
      sets.emplace_back(set);
    }
    sets.push_back("precision.compute=" + compute);
    return {.sets = std::move(sets), .ranks = GetParam().ranks, .device = device, .steps = steps};
  }
};

double worst_difference(const std::vector<double>& got, const std::vector<double>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < expected.size(); i++) worst = std::max(worst, std::abs(got[i] - expected[i]) / std::abs(expected[i]));
  return worst;
}

TEST_P(DeviceRanks, TenStepsAgreeWithTheCpu) {
  const DeviceKind device = op_test::kind_under_test();
  TinyRun reference = tiny(DeviceKind::Cpu, "fp32");
  const TinyResult exact = run_tiny(reference), fp32 = run_tiny(tiny(device, "fp32"));
  EXPECT_LE(worst_difference(fp32.losses, exact.losses), 1e-5);
  EXPECT_LE(worst_difference(fp32.norms, exact.norms), 1e-4);
  EXPECT_LE(worst_tensor_error(fp32.first_gradients, exact.first_gradients), 1e-4);
  for (const std::string compute : {"bf16", "fp16"}) {
    const TinyResult there = run_tiny(tiny(device, compute)), here = run_tiny(tiny(DeviceKind::Cpu, compute));
    const double epsilon = op_test::epsilon_of(compute == "bf16" ? DType::bf16 : DType::f16);
    EXPECT_LE(worst_difference(there.losses, exact.losses), 2 * worst_difference(here.losses, exact.losses) + epsilon) << compute;
    EXPECT_LE(worst_tensor_error(there.first_gradients, exact.first_gradients),
              2 * worst_tensor_error(here.first_gradients, exact.first_gradients) + epsilon)
        << compute;
  }
}

TEST_P(DeviceRanks, TwoRunsGiveTheSameBits) {
  for (const std::string compute : {"fp32", "bf16"}) {
    const TinyRun run = tiny(op_test::kind_under_test(), compute, 3);
    const TinyResult first = run_tiny(run), second = run_tiny(run);
    EXPECT_EQ(first.losses, second.losses) << compute;
    EXPECT_EQ(first.weights, second.weights) << compute;
    EXPECT_EQ(first.states, second.states) << compute;
  }
}

TEST_P(DeviceRanks, TheDryRunEqualsTheArenaToTheByteInEveryCategory) {
  for (const std::string compute : {"fp32", "bf16"}) {
    TinyRun run = tiny(op_test::kind_under_test(), compute, 1);
    const ResolvedRun resolved = resolve_tiny(run);
    run.finish = [&](Trainer& trainer) {
      const RandomSamples tokens(resolved.model.vocab);
      trainer.evaluate(&tokens, 1);
      expect_arena_of_dry_run(trainer);
    };
    run_tiny(run);
  }
}

/// Calls of a function of CUDA's runtime so far, by any rank; the emulation counts them.
long calls_of(const char* function) {
  const char* module = std::getenv("TESSERA_CUDA_MODULE");
  void* opened = module ? dlopen(module, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  void* counter = opened ? dlsym(opened, "tessera_emulation_calls_of") : nullptr;
  return counter ? reinterpret_cast<long (*)(const char*)>(counter)(function) : -1;
}

TEST_P(DeviceRanks, NothingInAStepWaitsOrAllocates) {
  constexpr const char* forbidden[] = {"cudaStreamSynchronize",
                                       "cudaDeviceSynchronize",
                                       "cudaEventSynchronize",
                                       "cudaMalloc",
                                       "cudaFree",
                                       "cudaHostAlloc",
                                       "cudaMemcpy",
                                       "cudaMemset",
                                       "cudaEventCreateWithFlags"};
  const char* streams = std::getenv("TESSERA_EMULATION_STREAMS");
  if (streams && std::string_view(streams) == "lazy") GTEST_SKIP() << "nothing moves there before somebody waits";
  TinyRun run = tiny(op_test::kind_under_test(), "bf16", 4);  // after these the events of a step are there to be used again
  run.finish = [&](Trainer& trainer) {
    if (calls_of("cudaMalloc") < 0) return;  // counted in emulation only
    const RandomSamples tokens(trainer.run().model.vocab);
    trainer.mesh().host().barrier();
    std::vector<long> before;
    for (const char* function : forbidden) before.push_back(calls_of(function));
    for (int64_t step = 4; step < 6; step++) trainer.train_step(step, &tokens, false);
    for (size_t i = 0; i < before.size(); i++) EXPECT_EQ(calls_of(forbidden[i]), before[i]) << forbidden[i];
    trainer.mesh().host().barrier();
  };
  run_tiny(run);
}

INSTANTIATE_TEST_SUITE_P(Runs, DeviceRanks,
                         testing::Values(DeviceCase{"gpt2", {}},
                                         DeviceCase{"llama", {"model.architecture=llama", "model.kv_heads=1", "model.tied=false"}},
                                         DeviceCase{"gpt2_bf16_states", {"precision.gradients=bf16", "precision.moments=bf16"}},
                                         DeviceCase{"dp2_zero1", {"parallel.dp=2", "parallel.zero=1"}, 2},
                                         DeviceCase{"pp2", {"parallel.pp=2"}, 2}),
                         [](const auto& run) { return run.param.name; });

}  // namespace
}  // namespace tessera
