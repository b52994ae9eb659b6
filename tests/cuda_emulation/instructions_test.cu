// kernels/cuda/instructions.h: a tile multiplied with ldmatrix, mma and cp.async against fp64 loops.
#include <cmath>
#include <limits>

#include "kernels/cuda/instructions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/cuda/warp.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

constexpr int M = 16, N = 8, K = 48, steps = K / 16, row_elements = 24;  // rows of 48 bytes: no bank conflicts

// Two stages: one is multiplied while the other is on its way.
template <class T>
struct Stage {
  alignas(16) T a[M][row_elements];   // [M, 16]
  alignas(16) T b[16][row_elements];  // [N, 16] when b is [N, K], [16, N] when it is [K, N]
};

/// c [M, N] = a [M, K] b, by one warp; b is [N, K] (transposed) or [K, N].
template <class T, bool transposed>
__global__ void multiply_kernel(float* c, const T* a, const T* b) {
  Stage<T>* stages = dynamic_shared<Stage<T>>();
  const int lane = lane_of_thread();
  const auto begin_copies = [&](int step) {
    Stage<T>& stage = stages[step % 2];
    copy_16_bytes_async(&stage.a[lane / 2][lane % 2 * 8], a + lane / 2 * K + step * 16 + lane % 2 * 8);
    const T* b_row = transposed ? b + lane / 2 * K + step * 16 + lane % 2 * 8 : b + (step * 16 + lane % 16) * N;
    if (lane < 16) copy_16_bytes_async(transposed ? &stage.b[lane / 2][lane % 2 * 8] : &stage.b[lane][0], b_row);
    commit_copies();
  };
  float sum[4] = {};
  begin_copies(0);
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) {
      begin_copies(step + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncwarp();
    const Stage<T>& stage = stages[step % 2];
    uint32_t a_words[4], b_words[4];
    load_matrices(a_words, &stage.a[lane % 16][lane / 16 * 8]);
    if (transposed) {
      load_matrices(b_words, &stage.b[lane % 8][lane / 8 % 2 * 8]);
    } else {
      load_matrices_transposed(b_words, &stage.b[lane % 16][0]);
    }
    const uint32_t b_pair[2] = {b_words[0], b_words[1]};
    multiply_add_16x8x16<T>(sum, a_words, b_pair);
    __syncwarp();
  }
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * N + lane % 4 * 2 + i % 2] = sum[i];
}

template <class T>
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> in_storage;
  for (const float value : values) in_storage.push_back(from_float<T>(value));
  return in_storage;
}

template <class T, bool transposed>
void expect_product() {
  const std::vector<T> a = rounded<T>(random_floats(M * K, 1)), b = rounded<T>(random_floats(N * K, 2));
  const TestStream stream;
  const DeviceVector<T> a_device(a), b_device(b);
  const DeviceVector<float> c(M * N);
  launch(multiply_kernel<T, transposed>, {1, 32, 2 * sizeof(Stage<T>)}, stream, c.data(), a_device.data(), b_device.data());
  const std::vector<float> product = c.values();
  for (int m = 0; m < M; m++) {
    for (int n = 0; n < N; n++) {
      double exact = 0, absolute = 0;
      for (int k = 0; k < K; k++) {
        const double term =
            double{to_float(a[static_cast<size_t>(m * K + k)])} * to_float(b[static_cast<size_t>(transposed ? n * K + k : k * N + n)]);
        exact += term;
        absolute += std::fabs(term);
      }
      // K additions in fp32, each of which errs by half an epsilon of a partial sum; tensor cores may truncate: a whole one.
      EXPECT_NEAR(product[static_cast<size_t>(m * N + n)], exact, K * std::numeric_limits<float>::epsilon() * absolute) << m << ", " << n;
    }
  }
}

TEST(Instructions, MultiplyABf16TileLikePlainLoops) {
  expect_product<__nv_bfloat16, true>();
  expect_product<__nv_bfloat16, false>();
}
TEST(Instructions, MultiplyAnFp16TileLikePlainLoops) {
  expect_product<__half, true>();
  expect_product<__half, false>();
}

__global__ void partial_copy_kernel(uint32_t* out, const uint32_t* in) {
  auto* words = dynamic_shared<uint32_t>();
  copy_16_bytes_async(words + 4 * threadIdx.x, in + 4 * threadIdx.x, threadIdx.x < 3);
  commit_copies();
  wait_for_copies<0>();
  for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = words[4 * threadIdx.x + i];
}

TEST(Instructions, CopiesThatAreNotValidGiveZerosAndReadNothing) {
  const TestStream stream;
  const DeviceVector<uint32_t> in(std::vector<uint32_t>(12, 7)), out(16);  // the fourth copy would leave `in`
  launch(partial_copy_kernel, {1, 4, 64}, stream, out.data(), in.data());
  const std::vector<uint32_t> words = out.values();
  for (size_t i = 0; i < 16; i++) EXPECT_EQ(words[i], i < 12 ? 7u : 0u);
}

__global__ void exp2_kernel(float* out, const float* in) { out[threadIdx.x] = exp2_approximate(in[threadIdx.x]); }

TEST(Instructions, PowersOfTwoAreRightToTwoUnitsAndSmallOnesAreZero) {
  const TestStream stream;
  std::vector<float> in = random_floats(128, 1);
  for (float& x : in) x *= 40;
  in[0] = 0, in[1] = -126, in[2] = -126.01f, in[3] = -1000, in[4] = -INFINITY, in[5] = INFINITY, in[6] = NAN;
  const DeviceVector<float> on_device(in), out(in.size());
  launch(exp2_kernel, {1, 128}, stream, out.data(), on_device.data());
  const std::vector<float> powers = out.values();
  EXPECT_EQ(powers[0], 1);
  EXPECT_EQ(powers[1], 0x1p-126f);
  for (const int i : {2, 3, 4}) EXPECT_EQ(powers[static_cast<size_t>(i)], 0) << i;
  EXPECT_EQ(powers[5], INFINITY);
  EXPECT_TRUE(std::isnan(powers[6]));
  for (size_t i = 7; i < in.size(); i++) {
    if (in[i] < -125 || in[i] > 127) continue;
    const double exact = std::exp2(static_cast<double>(in[i]));
    EXPECT_NEAR(powers[i], exact, exact * 0x1p-22) << in[i];
  }
}

}  // namespace
}  // namespace tessera::cuda
