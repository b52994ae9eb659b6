// 300 steps on real text in every precision, beside PyTorch's curves on the same data: golden/make_golden.py says what was computed.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/golden.h"

namespace tessera {
namespace {

struct CurveCase {
  const char *name, *file;
  std::vector<std::string> model;
  friend void PrintTo(const CurveCase& curve, std::ostream* out) { *out << curve.name; }
};

class Curve : public testing::TestWithParam<CurveCase> {
 protected:
  std::vector<double> losses(const std::vector<std::string>& precision) const {
    TinyRun run{.sets = {"model.layers=2", "model.hidden=32", "model.head_dim=8", "model.vocab=256", "model.context=64",
                         "model.init_std=0.02", "train.batch_size=4", "train.micro_batch_size=2", "train.clip=1", "train.steps=300",
                         "optimizer.learning_rate=3e-3", "optimizer.final_fraction=0.1", "optimizer.warmup_steps=20", "parallel.threads=1"},
                .steps = 300,
                .data = &golden_};
    for (const auto* sets : {&GetParam().model, &precision}) run.sets.insert(run.sets.end(), sets->begin(), sets->end());
    run.start = [this](Trainer& trainer) { golden_.start(trainer); };
    return run_tiny(run).losses;
  }

  /// The largest relative difference of two curves.
  static double apart(const std::vector<double>& a, const std::vector<double>& b) {
    EXPECT_EQ(a.size(), b.size());
    double most = 0;
    for (size_t s = 0; s < a.size(); s++) most = std::max(most, std::abs(a[s] - b[s]) / b[s]);
    return most;
  }
  const Golden golden_{GetParam().file};
};

TEST_P(Curve, InFp32IsPyTorchs) { EXPECT_LE(apart(losses({"precision.compute=fp32"}), golden_.losses()), 1e-3); }

/// The band: three times as far from the fp32 curve as PyTorch's bf16 run at most, in any step.
TEST_P(Curve, In16BitsStaysInTheBandAroundFp32) {
  const std::vector<double> fp32 = golden_.losses();
  const double band = 3 * apart(golden_.losses("losses_bf16"), fp32);
  EXPECT_LE(apart(losses({"precision.compute=bf16"}), fp32), band);
  EXPECT_LE(apart(losses({"precision.compute=fp16"}), fp32), band);
  EXPECT_LE(apart(losses({"precision.compute=bf16", "precision.gradients=bf16", "precision.moments=bf16"}), fp32), band);
}

TEST_P(Curve, StatesOf16BitsLearnWhatFp32Learns) {
  const double fp32 = golden_.losses().back();
  const double narrow =
      losses({"precision.compute=bf16", "precision.master=bf16", "precision.gradients=bf16", "precision.moments=bf16"}).back();
  EXPECT_NEAR(narrow / fp32, 1, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Models, Curve,
                         testing::Values(CurveCase{"gpt2", "gpt2_curve", {"model.heads=3", "model.ffn=96"}},
                                         CurveCase{"llama",
                                                   "llama_curve",
                                                   {"model.architecture=llama", "model.heads=4", "model.kv_heads=2", "model.ffn=40",
                                                    "model.tied=false"}}),
                         [](const auto& curve) { return curve.param.name; });

}  // namespace
}  // namespace tessera
