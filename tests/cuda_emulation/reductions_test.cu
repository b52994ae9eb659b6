// kernels/cuda/warp.h: sums and maxima over warps and blocks.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/warp.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

constexpr int threads = 96;  // three warps: not a power of two

__global__ void reduce_kernel(float* warp_sums, float* block_sums, float* block_maxima, const float* in) {
  const int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  warp_sums[i] = warp_sum(in[i]);
  block_sums[i] = block_sum(in[i]);
  block_maxima[i] = block_max(in[i], -INFINITY);
}

struct Reduced {
  std::vector<float> warp_sums, block_sums, block_maxima;
};

Reduced reduce(const std::vector<float>& in) {
  const TestStream stream;
  const DeviceVector<float> on_device(in), warp_sums(in.size()), block_sums(in.size()), block_maxima(in.size());
  const auto blocks = static_cast<unsigned>(in.size() / threads);
  launch(reduce_kernel, {blocks, threads}, stream, warp_sums.data(), block_sums.data(), block_maxima.data(), on_device.data());
  stream.synchronize();
  return {warp_sums.values(), block_sums.values(), block_maxima.values()};
}

// A tree of depth d errs by at most d epsilon times the sum of absolute values.
double bound(const float* in, int count) {
  double absolute = 0;
  for (int i = 0; i < count; i++) absolute += std::fabs(in[i]);
  return 10 * absolute * std::numeric_limits<float>::epsilon();
}

double exact_sum(const float* in, int count) {
  double sum = 0;
  for (int i = 0; i < count; i++) sum += in[i];
  return sum;
}

TEST(Reductions, WarpAndBlockGiveTheSumAndTheMaximumToEveryThread) {
  const std::vector<float> in = random_floats(5 * threads, 1);
  const Reduced out = reduce(in);
  for (int i = 0; i < static_cast<int>(in.size()); i++) {
    const float *warp = &in[static_cast<size_t>(i / 32 * 32)], *block = &in[static_cast<size_t>(i / threads * threads)];
    const auto at = static_cast<size_t>(i);
    EXPECT_NEAR(out.warp_sums[at], exact_sum(warp, 32), bound(warp, 32));
    EXPECT_NEAR(out.block_sums[at], exact_sum(block, threads), bound(block, threads));
    EXPECT_EQ(out.block_sums[at], out.block_sums[at / threads * threads]);  // the same bits in every thread
    EXPECT_EQ(out.block_maxima[at], *std::max_element(block, block + threads));
  }
}

TEST(Reductions, AMaximumKeepsNan) {
  std::vector<float> in(threads, 1.0f);
  in[70] = NAN;
  for (const float maximum : reduce(in).block_maxima) EXPECT_TRUE(std::isnan(maximum));
}

}  // namespace
}  // namespace tessera::cuda
