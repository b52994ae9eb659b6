// kernels/cuda/vector_access.h: 16 bytes at a time in each type.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector_access.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

template <class T>
__global__ void halve_kernel(T* out, const T* in) {
  float values[8];
  load_floats(values, in + 8 * threadIdx.x);
  for (float& value : values) value *= 0.5f;
  store_floats(out + 8 * threadIdx.x, values);
}

template <class T>
class VectorAccess : public testing::Test {};
using Types = testing::Types<float, __nv_bfloat16, __half>;
TYPED_TEST_SUITE(VectorAccess, Types);

TYPED_TEST(VectorAccess, KeepsTheOrderOfElements) {
  std::vector<TypeParam> in(8 * 32);
  for (size_t i = 0; i < in.size(); i++) in[i] = from_float<TypeParam>(static_cast<float>(i));  // up to 255: exact in all three types
  const TestStream stream;
  const DeviceVector<TypeParam> on_device(in), out(in.size());
  launch(halve_kernel<TypeParam>, {1, 32}, stream, out.data(), on_device.data());
  const std::vector<TypeParam> halves = out.values();
  for (size_t i = 0; i < in.size(); i++) EXPECT_EQ(to_float(halves[i]), static_cast<float>(i) / 2);
}

TEST(IsPacked, AsksForAddressAndRow) {
  alignas(16) const float row[8] = {};
  EXPECT_TRUE(is_packed(row, 32));
  EXPECT_FALSE(is_packed(row + 1, 32));
  EXPECT_FALSE(is_packed(row, 24));
}

}  // namespace
}  // namespace tessera::cuda
