// A tiny GPT-2 against PyTorch: golden/make_gpt2_golden.py says what was computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/safetensors.h"
#include "tests/tiny_run.h"

namespace tessera {
namespace {

constexpr int64_t steps = 20;
const std::vector<std::string> model_and_optimizer = {"model.layers=2",
                                                      "model.hidden=24",
                                                      "model.heads=3",
                                                      "model.vocab=89",
                                                      "model.context=16",
                                                      "train.batch_size=4",
                                                      "train.micro_batch_size=2",
                                                      "train.clip=1.2",
                                                      "optimizer.learning_rate=1e-2",
                                                      "optimizer.final_fraction=0.1",
                                                      "optimizer.warmup_steps=4",
                                                      "optimizer.weight_decay=0.1",
                                                      "optimizer.beta1=0.9",
                                                      "optimizer.beta2=0.95",
                                                      "optimizer.epsilon=1e-8",
                                                      "parallel.threads=1"};

/// The golden file; its tokens are the samples of the run.
class Golden : public BatchSource {
 public:
  Golden() : file_(std::string(TESSERA_TESTS_DIR) + "/golden/gpt2_tiny.safetensors"), tokens_(values<int32_t>("tokens", "I32")) {}

  std::vector<float> weight(const std::string& name) const { return values<float>("weight/" + name, "F32"); }
  std::vector<float> gradient(const std::string& name) const { return values<float>("gradient/" + name, "F32"); }
  std::vector<double> losses() const { return values<double>("losses", "F64"); }
  std::vector<double> norms() const { return values<double>("norms", "F64"); }
  std::vector<std::string> gradient_names() const {
    std::vector<std::string> names;
    for (const SafetensorsTensor& tensor : file_.tensors()) {
      if (tensor.name.starts_with("gradient/")) names.push_back(tensor.name.substr(9));
    }
    return names;
  }
  void sample(int64_t i, std::span<int32_t> tokens) const override {
    std::copy_n(tokens_.begin() + i * static_cast<int64_t>(tokens.size()), tokens.size(), tokens.begin());
  }

 private:
  template <class Value>
  std::vector<Value> values(const std::string& name, const std::string& dtype) const {
    const SafetensorsTensor* tensor = file_.find(name);
    if (tensor == nullptr || tensor->dtype != dtype) throw std::runtime_error("the golden file has no " + name + " of type " + dtype);
    std::vector<Value> all(static_cast<size_t>(tensor->bytes()) / sizeof(Value));
    file_.read(*tensor, 0, std::as_writable_bytes(std::span(all)));
    return all;
  }

  SafetensorsFile file_;
  std::vector<int32_t> tokens_;  // [steps x batch, T + 1]
};

void start_from(const Golden& golden, Trainer& trainer) {
  trainer.initialize();
  const ShardMap& map = trainer.params().map();
  for (const LocalBucket& local : trainer.params().buckets()) {
    for (const BucketEntry& entry : local.bucket->entries) {
      const ParamDecl& decl = map.decl(*local.bucket, entry);
      const std::vector<float> values = golden.weight(decl.tied_to.empty() ? decl.name : decl.tied_to);
      const Tensor weight = local.weights.flat_range(entry.offset, entry.offset + decl.shape.elements());
      trainer.device().write(weight, values.data(), static_cast<int64_t>(values.size() * sizeof(float)));
    }
  }
}

struct LayoutCase {
  const char* name;
  int ranks;
  std::vector<std::string> sets;
  friend void PrintTo(const LayoutCase& layout, std::ostream* out) { *out << layout.name; }
};

class GoldenGpt2Ranks : public testing::TestWithParam<LayoutCase> {
 protected:
  TinyRun first_steps(int64_t count) const {
    TinyRun run{.sets = model_and_optimizer, .ranks = GetParam().ranks, .steps = count, .data = &golden_};
    run.sets.push_back("train.steps=" + std::to_string(steps));
    run.sets.insert(run.sets.end(), GetParam().sets.begin(), GetParam().sets.end());
    run.start = [this](Trainer& trainer) { start_from(golden_, trainer); };
    return run;
  }
  Golden golden_;
};

TEST_P(GoldenGpt2Ranks, LossesOfTwentyStepsAreThoseOfPyTorch) {
  const TinyRun run = first_steps(steps);
  const std::vector<double> expected = golden_.losses(), norms = golden_.norms();
  ASSERT_EQ(std::ssize(expected), steps);
  const double clip = resolve_tiny(run).config.train.clip;
  ASSERT_GT(*std::max_element(norms.begin(), norms.end()), clip) << "no step is clipped";
  ASSERT_LT(*std::min_element(norms.begin(), norms.end()), clip) << "every step is clipped";
  const std::vector<double> losses = run_tiny(run).losses;
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t s = 0; s < losses.size(); s++) {
    EXPECT_LE(std::abs(losses[s] - expected[s]), 1e-5 * expected[s])
        << "step " << s + 1 << ": " << losses[s] << ", PyTorch " << expected[s];
  }
}

double norm(const std::vector<float>& values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

TEST_P(GoldenGpt2Ranks, GradientsOfStepOneAreThoseOfPyTorch) {
  const auto gradients = run_tiny(first_steps(1)).first_gradients;
  double squares = 0, elements = 0;
  for (const std::string& name : golden_.gradient_names()) {
    const std::vector<float> expected = golden_.gradient(name);
    squares += std::pow(norm(expected), 2);
    elements += static_cast<double>(expected.size());
  }
  ASSERT_EQ(gradients.size(), golden_.gradient_names().size());
  for (const std::string& name : golden_.gradient_names()) {
    const std::vector<float> expected = golden_.gradient(name);
    ASSERT_TRUE(gradients.contains(name)) << name;
    const std::vector<float>& got = gradients.at(name);
    ASSERT_EQ(got.size(), expected.size()) << name;
    std::vector<float> difference(got.size());
    for (size_t i = 0; i < got.size(); i++) difference[i] = got[i] - expected[i];
    // The key biases' gradients are zero in theory and noise in practice: a tensor counts as at least a thousandth of its share.
    const double least = std::sqrt(squares) * std::sqrt(static_cast<double>(expected.size()) / elements) * 1e-3;
    EXPECT_LE(norm(difference), 1e-4 * std::max(norm(expected), least)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GoldenGpt2Ranks,
                         testing::Values(LayoutCase{"one", 1, {}}, LayoutCase{"pp2", 2, {"parallel.pp=2"}},
                                         LayoutCase{"dp2_zero1", 2, {"parallel.dp=2", "parallel.zero=1"}}),
                         [](const auto& layout) { return layout.param.name; });

}  // namespace
}  // namespace tessera
