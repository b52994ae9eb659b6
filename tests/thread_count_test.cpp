// What the number of threads of a rank may change in a whole run: roundings inside a matmul, and nothing else.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_test.h"
#include "tests/tiny_run.h"

namespace tessera {
namespace {

struct ModelCase {
  const char* name;
  std::vector<std::string> sets;
  friend void PrintTo(const ModelCase& model, std::ostream* out) { *out << model.name; }
};

class TeamsOf1And2And3 : public testing::TestWithParam<ModelCase> {
 protected:
  static constexpr int loss_scale = 4096;
  static TinyResult run(DType compute, int threads) {
    std::vector<std::string> sets = team_sets(threads);
    sets.push_back("precision.compute=" + std::string(name_of(compute)));
    sets.push_back("precision.loss_scale=" + std::to_string(loss_scale));
    sets.insert(sets.end(), GetParam().sets.begin(), GetParam().sets.end());
    TinyResult result = run_tiny({.sets = std::move(sets), .steps = 4});
    if (compute == DType::f16) {
      for (auto& [name, gradient] : result.first_gradients) {
        for (float& element : gradient) element /= loss_scale;
      }
    }
    return result;
  }
  static double worst_loss_error(const TinyResult& result, const TinyResult& exact) {
    double worst = 0;
    for (size_t s = 0; s < exact.losses.size(); s++) worst = std::max(worst, std::abs(result.losses[s] / exact.losses[s] - 1));
    return worst;
  }
};

TEST_P(TeamsOf1And2And3, TrainTheSameInFp32UpToRounding) {
  const TinyResult one = run(DType::f32, 1);
  for (const int threads : {2, 3}) {
    const TinyResult several = run(DType::f32, threads);
    EXPECT_LE(worst_loss_error(several, one), 1e-5) << threads << " threads";
    EXPECT_LE(worst_tensor_error(several.first_gradients, one.first_gradients), 1e-5) << threads << " threads";
  }
}

// Against one thread in fp32: at most twice the error of one thread in the same type, and one epsilon of that type.
TEST_P(TeamsOf1And2And3, TrainAsExactlyAsOneThreadIn16Bits) {
  const TinyResult exact = run(DType::f32, 1);
  for (const DType compute : {DType::bf16, DType::f16}) {
    const TinyResult one = run(compute, 1);
    const double losses = 2 * worst_loss_error(one, exact) + op_test::epsilon_of(compute),
                 gradients = 2 * worst_tensor_error(one.first_gradients, exact.first_gradients) + op_test::epsilon_of(compute);
    for (const int threads : {2, 3}) {
      const TinyResult several = run(compute, threads);
      EXPECT_LE(worst_loss_error(several, exact), losses) << threads << " threads, " << name_of(compute);
      EXPECT_LE(worst_tensor_error(several.first_gradients, exact.first_gradients), gradients)
          << threads << " threads, " << name_of(compute);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TeamsOf1And2And3,
                         testing::Values(ModelCase{"gpt2", {"model.architecture=gpt2"}},
                                         ModelCase{"llama", {"model.architecture=llama", "model.kv_heads=2"}}),
                         [](const auto& model) { return model.param.name; });

}  // namespace
}  // namespace tessera
