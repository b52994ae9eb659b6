#include "kernels/loss_ops.h"

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference.h"

namespace tessera::op_test {
namespace {

struct Sizes {
  int64_t R, V;
};

std::vector<int32_t> targets_of(int64_t R, int64_t V) {
  std::vector<int32_t> targets(R);
  for (int64_t r = 0; r < R; r++) targets[r] = static_cast<int32_t>((r * 7919 + V - 1) % V);  // the first is the last token
  return targets;
}

class LossOps : public testing::TestWithParam<Sizes> {
 protected:
  const int64_t R = GetParam().R, V = GetParam().V;
  const std::vector<float> logits = random_values(R * V, "logits", 3);
  const std::vector<int32_t> targets = targets_of(R, V);
  const float scale = 0.125f;
};

TEST_P(LossOps, LossesAndGradientsAreAsExactAsPlainCode) {
  auto exact = converted<double>(logits);
  auto plain = logits;
  const auto exact_losses = reference::cross_entropy<double>(exact, targets, V, scale);
  const auto plain_losses = reference::cross_entropy<float>(plain, targets, V, scale);
  TestDevice device = TestDevice::cpu();
  const Tensor losses = device.tensor({R}), gradient = device.tensor({R, V}, logits), target = device.tensor({R}, targets);
  device->loss().cross_entropy(losses, gradient, target, scale, device.stream());
  expect_as_exact_as_plain_code("losses", device.values(losses), plain_losses, exact_losses);
  if (V == 1) {
    EXPECT_EQ(device.values(gradient), std::vector<float>(R)) << "a vocabulary of one leaves nothing to learn";
  } else {
    expect_as_exact_as_plain_code("gradient", device.values(gradient), plain, exact);
  }
}

TEST_P(LossOps, TheLossAloneHasTheSameBitsAndKeepsTheLogits) {
  TestDevice device = TestDevice::cpu(), other = TestDevice::cpu(1);
  const Tensor losses = device.tensor({R}), kept = device.tensor({R, V}, logits), target = device.tensor({R}, targets);
  device->loss().cross_entropy_loss(losses, kept, target, device.stream());
  EXPECT_EQ(device.values(kept), logits);
  const Tensor again = other.tensor({R});
  other->loss().cross_entropy(again, other.tensor({R, V}, logits), other.tensor({R}, targets), scale, other.stream());
  EXPECT_EQ(device.values(losses), other.values(again)) << "also on another number of threads";
}

TEST_P(LossOps, PaddedRowsOfAWiderMatrixAreLeftAlone) {
  TestDevice device = TestDevice::cpu();
  const Tensor wide = device.tensor({R, V + 3}), losses = device.tensor({R}), dense = device.tensor({R, V}, logits);
  const Tensor view = device.columns(wide, 0, V, logits), target = device.tensor({R}, targets);
  device->loss().cross_entropy(losses, view, target, scale, device.stream());
  device->loss().cross_entropy(losses, dense, target, scale, device.stream());
  EXPECT_EQ(device.values(view), device.values(dense));
  EXPECT_EQ(device.values(wide.column_range(V, V + 3)), std::vector<float>(3 * R));
}

INSTANTIATE_TEST_SUITE_P(OneElementOddSizesARealVocabulary, LossOps,
                         testing::Values(Sizes{1, 1}, Sizes{3, 2}, Sizes{5, 31}, Sizes{4, 67}, Sizes{7, 1000}, Sizes{3, 50257}));

TEST(LossReference, GradientIsTheCentralDifference) {
  const int64_t R = 3, V = 6;
  auto logits = converted<double>(random_values(R * V, "logits"));
  const auto targets = targets_of(R, V);
  auto gradient = logits;
  reference::cross_entropy<double>(gradient, targets, V, 1);
  const auto loss = [&] {
    auto copy = logits;
    return dot(reference::cross_entropy<double>(copy, targets, V, 1), std::vector<double>(R, 1));
  };
  EXPECT_LE(max_error(gradient, central_differences(logits, loss)), 1e-8);
}

TEST(LossNumerics, LogitsFarApartNeitherOverflowNorVanish) {
  TestDevice device = TestDevice::cpu();
  const Tensor losses = device.tensor({2}), logits = device.tensor({2, 3}, std::vector<float>{1e30f, 0, -1e30f, -300, -200, -400});
  device->loss().cross_entropy(losses, logits, device.tensor({2}, std::vector<int32_t>{0, 0}), 1, device.stream());
  EXPECT_EQ(device.values(losses), (std::vector<float>{0, 100}));
  EXPECT_EQ(device.values(logits), (std::vector<float>{0, 0, 0, -1, 1, 0}));
}

TEST(LossNumerics, WhatIsNotFiniteMakesTheLossNotFinite) {
  for (float bad : {NAN, INFINITY}) {
    std::vector<float> logits = random_values(40, "logits");
    logits[17] = bad;
    TestDevice device = TestDevice::cpu();
    const Tensor losses = device.tensor({1});
    device->loss().cross_entropy_loss(losses, device.tensor({1, 40}, logits), device.tensor({1}, std::vector<int32_t>{3}), device.stream());
    EXPECT_FALSE(std::isfinite(device.values(losses)[0])) << bad;
  }
}

TEST(LossChecks, WrongShapesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor logits = device.tensor({4, 8}), losses = device.tensor({4}), targets = device.tensor({4}, DType::i32);
  EXPECT_NO_THROW(device->loss().cross_entropy(losses, logits, targets, 1, device.stream()));
  EXPECT_THROW(device->loss().cross_entropy(device.tensor({5}), logits, targets, 1, device.stream()), InternalError);
  EXPECT_THROW(device->loss().cross_entropy(losses, logits, losses, 1, device.stream()), InternalError) << "targets are integers";
  EXPECT_THROW(device->loss().cross_entropy_loss(losses, logits, device.tensor({3}, DType::i32), device.stream()), InternalError);
}

TEST(LossTrace, NullRecordsWhatCpuRecords) {
  expect_same_trace_on_null(2, [](TestDevice& device) {
    const Tensor logits = device.tensor({4, 8}), losses = device.tensor({4}), targets = device.tensor({4}, DType::i32);
    device->loss().cross_entropy(losses, logits, targets, 1, device.stream());
    device->loss().cross_entropy_loss(losses, logits, targets, device.stream());
  });
}

}  // namespace
}  // namespace tessera::op_test
