#include "kernels/loss_ops.h"

#include <cmath>
#include <tuple>

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

class LossOps : public testing::TestWithParam<std::tuple<Sizes, DType>> {
 protected:
  const int64_t R = std::get<0>(GetParam()).R, V = std::get<0>(GetParam()).V;
  const DType dtype = std::get<1>(GetParam());
  const std::vector<float> logits = rounded_to(dtype, random_values(R* V, "logits", 3));
  const std::vector<int32_t> targets = targets_of(R, V);
  const float scale = 0.125f;
  const StepControl control{.loss_scale = 4};
};

TEST_P(LossOps, LossesAndGradientsAreAsExactAsPlainCode) {
  auto exact = converted<double>(logits);
  auto plain = logits;
  const auto exact_losses = reference::cross_entropy<double>(exact, targets, V, scale * control.loss_scale);
  const auto plain_losses = reference::cross_entropy<float>(plain, targets, V, scale * control.loss_scale);
  TestDevice device = TestDevice::under_test();
  const Tensor losses = device.tensor({R}), gradient = device.tensor({R, V}, logits, dtype), target = device.tensor({R}, targets);
  device->loss().cross_entropy(losses, gradient, target, scale, device.placed(control), device.stream());
  expect_as_exact_as_plain_code("losses", device.values(losses), plain_losses, exact_losses);
  if (V == 1) {
    EXPECT_EQ(device.values(gradient), std::vector<float>(R)) << "a vocabulary of one leaves nothing to learn";
  } else {
    expect_as_exact_as_plain_code("gradient", device.values(gradient), plain, exact, dtype);
  }
}

// The bound above cannot see truncation.
TEST_P(LossOps, GradientsIn16BitsAreThoseInFp32EachRoundedOnce) {
  TestDevice device = TestDevice::under_test();
  const auto gradient_in = [&](DType type) {
    const Tensor gradient = device.tensor({R, V}, logits, type);
    device->loss().cross_entropy(device.tensor({R}), gradient, device.tensor({R}, targets), scale, device.placed(control), device.stream());
    return device.values(gradient);
  };
  EXPECT_EQ(gradient_in(dtype), rounded_to(dtype, gradient_in(DType::f32)));
}

TEST_P(LossOps, TheLossAloneHasTheSameBitsAndKeepsTheLogits) {
  TestDevice device = TestDevice::under_test();
  const Tensor losses = device.tensor({R}), kept = device.tensor({R, V}, logits, dtype), target = device.tensor({R}, targets);
  device->loss().cross_entropy_loss(losses, kept, target, device.stream());
  EXPECT_EQ(device.values(kept), logits);
  const Tensor again = device.tensor({R});
  device->loss().cross_entropy(again, kept, target, scale, device.placed(control), device.stream());
  EXPECT_EQ(device.values(losses), device.values(again));
}

TEST_P(LossOps, BitsDependNotOnTheNumberOfThreads) {
  std::vector<float> losses, gradients;
  for (const int threads : {1, 2, 3}) {
    TestDevice device = TestDevice::under_test(threads);
    const Tensor loss = device.tensor({R}), gradient = device.tensor({R, V}, logits, dtype);
    device->loss().cross_entropy(loss, gradient, device.tensor({R}, targets), scale, device.placed(control), device.stream());
    if (threads == 1) losses = device.values(loss), gradients = device.values(gradient);
    EXPECT_EQ(device.values(loss), losses) << threads << " threads";
    EXPECT_EQ(device.values(gradient), gradients) << threads << " threads";
  }
}

TEST_P(LossOps, PaddedRowsOfAWiderMatrixAreLeftAlone) {
  TestDevice device = TestDevice::under_test();
  const Tensor wide = device.tensor({R, V + 3}, dtype), losses = device.tensor({R}), dense = device.tensor({R, V}, logits, dtype);
  const Tensor view = device.columns(wide, 0, V, logits), target = device.tensor({R}, targets);
  device->loss().cross_entropy(losses, view, target, scale, device.placed(control), device.stream());
  device->loss().cross_entropy(losses, dense, target, scale, device.placed(control), device.stream());
  EXPECT_EQ(device.values(view), device.values(dense));
  EXPECT_EQ(device.values(wide.column_range(V, V + 3)), std::vector<float>(3 * R));
}

INSTANTIATE_TEST_SUITE_P(OneElementOddSizesARealVocabulary, LossOps,
                         testing::Combine(testing::Values(Sizes{1, 1}, Sizes{3, 2}, Sizes{5, 31}, Sizes{4, 67}, Sizes{7, 1000},
                                                          Sizes{3, 50257}, Sizes{2, 131075}),
                                          testing::ValuesIn(compute_types)));

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

TEST(LossNumerics, TheLossScaleMultipliesTheGradientExactlyAndNotTheLoss) {
  const int64_t R = 3, V = 100;
  for (const DType dtype : compute_types) {
    TestDevice device = TestDevice::under_test();
    const Tensor target = device.tensor({R}, targets_of(R, V));
    const auto run = [&](float loss_scale) {
      const Tensor losses = device.tensor({R}), gradient = device.tensor({R, V}, random_values(R * V, "logits"), dtype);
      const StepControl control{.loss_scale = loss_scale};
      device->loss().cross_entropy(losses, gradient, target, 1, device.placed(control), device.stream());
      return std::pair(device.values(losses), device.values(gradient));
    };
    auto [losses, gradient] = run(8);  // no fp16 gradient here has fewer digits at the one scale than at the other
    for (float& value : gradient) value *= 64;
    EXPECT_EQ(run(512), std::pair(losses, gradient)) << name_of(dtype);
  }
}

TEST(LossNumerics, TheGradientOfAConfidentRowIsRoundedOnceAtItsTargetToo) {
  const std::vector<int32_t> targets = {1};
  const StepControl control;
  for (const DType dtype : compute_types) {
    std::vector<float> plain = {0, 10, 0};  // the softmax at the target is 1 in 16 bits, and its gradient -9e-5
    auto exact = converted<double>(plain);
    TestDevice device = TestDevice::under_test();
    const Tensor losses = device.tensor({1}), logits = device.tensor({1, 3}, plain, dtype);
    device->loss().cross_entropy(losses, logits, device.tensor({1}, targets), 1, device.placed(control), device.stream());
    reference::cross_entropy<float>(plain, targets, 3, 1);
    reference::cross_entropy<double>(exact, targets, 3, 1);
    expect_as_exact_as_plain_code("gradient", device.values(logits), plain, exact, dtype);
  }
}

TEST(LossNumerics, LogitsFarApartNeitherOverflowNorVanish) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TestDevice device = TestDevice::under_test();
    const Tensor losses = device.tensor({2});
    const Tensor logits = device.tensor({2, 3}, std::vector<float>{0x1p100f, 0, -0x1p100f, -300, -200, -400}, dtype);
    const StepControl control;
    device->loss().cross_entropy(losses, logits, device.tensor({2}, std::vector<int32_t>{0, 0}), 1, device.placed(control),
                                 device.stream());
    EXPECT_EQ(device.values(losses), (std::vector<float>{0, 100}));
    EXPECT_EQ(device.values(logits), (std::vector<float>{0, 0, 0, -1, 1, 0}));
  }
}

TEST(LossNumerics, WhatIsNotFiniteMakesTheLossNotFinite) {
  TestDevice device = TestDevice::under_test();
  for (const DType dtype : compute_types) {
    for (const float bad : {NAN, INFINITY}) {
      for (const int64_t at : {17, 39}) {  // in a vector, and behind the last whole one
        std::vector<float> logits = random_values(40, "logits");
        logits[at] = bad;
        const Tensor losses = device.tensor({1}), row = device.tensor({1, 40}, logits, dtype);
        device->loss().cross_entropy_loss(losses, row, device.tensor({1}, std::vector<int32_t>{3}), device.stream());
        EXPECT_FALSE(std::isfinite(device.values(losses)[0])) << bad << ' ' << name_of(dtype);
      }
    }
  }
}

TEST(LossChecks, WrongShapesAndTypesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor logits = device.tensor({4, 8}), losses = device.tensor({4}), targets = device.tensor({4}, DType::i32);
  tessera::LossOps& ops = device->loss();
  Stream& stream = device.stream();
  EXPECT_NO_THROW(ops.cross_entropy(losses, logits, targets, 1, nullptr, stream)) << "null reads no control";
  EXPECT_THROW(ops.cross_entropy(device.tensor({5}), logits, targets, 1, nullptr, stream), InternalError);
  EXPECT_THROW(ops.cross_entropy(losses, logits, losses, 1, nullptr, stream), InternalError) << "targets are integers";
  EXPECT_THROW(ops.cross_entropy(losses, device.tensor({4, 8}, DType::f64), targets, 1, nullptr, stream), InternalError);
  EXPECT_THROW(ops.cross_entropy(device.tensor({4}, DType::f16), device.tensor({4, 8}, DType::f16), targets, 1, nullptr, stream),
               InternalError)
      << "losses are fp32";
  EXPECT_THROW(ops.cross_entropy_loss(losses, logits, device.tensor({3}, DType::i32), stream), InternalError);
  EXPECT_THROW(ops.cross_entropy_loss(losses, device.tensor({4, 8}, DType::i32), targets, stream), InternalError);
}

TEST(LossTrace, NullRecordsWhatCpuRecordsAndBytesFollowTheType) {
  for (const DType dtype : compute_types) {
    const auto call = [&](TestDevice& device) {
      const Tensor logits = device.tensor({4, 8}, dtype), losses = device.tensor({4}), targets = device.tensor({4}, DType::i32);
      const StepControl control;
      device->loss().cross_entropy(losses, logits, targets, 1, device.placed(control), device.stream());
      device->loss().cross_entropy_loss(losses, logits, targets, device.stream());
    };
    expect_same_trace_on_null(2, call);
    TestDevice device = TestDevice::null();
    Trace trace;
    device.stream().set_trace(&trace);
    call(device);
    const int64_t logits_bytes = 4 * 8 * bytes_of(dtype);
    ASSERT_EQ(trace.size(), 2u);
    EXPECT_EQ(trace[0].info.read_bytes, logits_bytes + 16);
    EXPECT_EQ(trace[0].info.write_bytes, logits_bytes + 16);
    EXPECT_EQ(trace[1].info.read_bytes, logits_bytes + 16);
    EXPECT_EQ(trace[1].info.write_bytes, 16);
  }
}

}  // namespace
}  // namespace tessera::op_test
