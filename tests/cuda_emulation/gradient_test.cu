// kernels/cuda/gradient.h and random.h: the same random numbers and the same rounding as on the host.
#include "kernels/cuda/gradient.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/launch.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

constexpr int elements = 8 * 64;

__global__ void draw_kernel(uint16_t* out, RandomStream stream, uint64_t first) {
  const EightHalfWords drawn = eight_half_words(stream, first + threadIdx.x);
#pragma unroll
  for (int i = 0; i < 8; i++) out[8 * threadIdx.x + i] = drawn[i];
}

TEST(EightHalfWords, AreThoseOfTheStreamFromAnyOfThem) {
  const RandomStream stream(1, RandomPurpose::Rounding, "a", 3);
  const uint64_t first = (uint64_t{1} << 40) - 16;  // beyond 32 bits of counters behind it
  const TestStream cuda_stream;
  const DeviceVector<uint16_t> out(8 * 32);
  launch(draw_kernel, {1, 32}, cuda_stream, out.data(), stream, first);
  const std::vector<uint16_t> drawn = out.values();
  for (uint64_t thread = 0; thread < 32; thread++) {
    for (uint64_t i = 0; i < 8; i++) EXPECT_EQ(drawn[8 * thread + i], stream.half_word(first + thread + i)) << thread << ' ' << i;
  }
}

template <class T>
__global__ void write_single(T* gradient, const float* sums, GradientRule rule, uint64_t first) {
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += static_cast<int>(blockDim.x)) {
    write_gradient(gradient + i, sums[i], rule, first + static_cast<uint64_t>(i));
  }
}

template <class T>
__global__ void write_packs(T* gradient, const float* sums, GradientRule rule, uint64_t first) {
  const int i = 16 * static_cast<int>(threadIdx.x);
  float mine[16];
  load_floats(mine, sums + i);
  write_gradients(gradient + i, mine, rule, first + static_cast<uint64_t>(i));
}

template <class T>
class Gradient : public testing::Test {};
using GradientTypes = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(Gradient, GradientTypes);

float expected(float, float value, const RandomStream&, uint64_t) { return value; }
float expected(__nv_bfloat16, float value, const RandomStream& stream, uint64_t half_word) {
  return rounded_stochastically(value, stream.half_word(half_word));
}

TYPED_TEST(Gradient, IsWrittenOrAddedToAndRoundedByTheHalfWordOfItsElement) {
  const TestStream stream;
  std::vector<float> sums = random_floats(elements, 1);
  sums[5] = INFINITY, sums[6] = -INFINITY;
  const DeviceVector<float> on_device(sums);
  for (const GradientWrite write : {GradientWrite::Overwrite, GradientWrite::Add}) {
    const GradientRule rule{write, RandomStream(1, RandomPurpose::Rounding, "a", 3)};
    for (const uint64_t first : {0, 8, 13}) {
      for (const auto& [kernel, threads] : {std::pair(&write_single<TypeParam>, 96), std::pair(&write_packs<TypeParam>, elements / 16)}) {
        const bool adds = write == GradientWrite::Add;
        const DeviceVector<TypeParam> gradient(std::vector<TypeParam>(elements, from_float<TypeParam>(adds ? 1.5f : NAN)));
        launch(kernel, {1, static_cast<unsigned>(threads)}, stream, gradient.data(), on_device.data(), rule, first);
        stream.synchronize();
        const std::vector<TypeParam> ours = gradient.values();
        for (size_t i = 0; i < elements; i++) {
          const float value = adds ? 1.5f + sums[i] : sums[i];
          ASSERT_EQ(to_float(ours[i]), expected(TypeParam{}, value, rule.rounding, first + i)) << i << " from " << first;
        }
      }
    }
  }
}

TEST(Gradient, KeepsNanThatACarryWouldMakeANumber) {
  for (const uint32_t bits : {0x7FFFFFFFu, 0xFFFFFFFFu, 0x7F800001u}) {
    EXPECT_TRUE(std::isnan(to_float(rounded_to_bf16(std::bit_cast<float>(bits), 0xFFFF)))) << bits;
  }
}

}  // namespace
}  // namespace tessera::cuda
