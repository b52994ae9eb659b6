#include "base/convert.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "base/half.h"

namespace tessera {

TEST(Convert, RoundsToNearestAndCopiesWhatIsAlike) {
  const std::vector<float> values{1.00390625f, -3.14159265f, 70000.0f, 1e-8f};
  std::vector<bf16_t> brain(4);
  std::vector<f16_t> half(4);
  std::vector<float> back(4);
  convert(brain.data(), DType::bf16, values.data(), DType::f32, 4);
  convert(half.data(), DType::f16, values.data(), DType::f32, 4);
  for (size_t i = 0; i < 4; i++) {
    EXPECT_EQ(brain[i].bits, bf16_t(values[i]).bits);
    EXPECT_EQ(half[i].bits, f16_t(values[i]).bits);
  }
  convert(half.data(), DType::f16, brain.data(), DType::bf16, 4);
  convert(back.data(), DType::f32, half.data(), DType::f16, 4);
  for (size_t i = 0; i < 4; i++) EXPECT_EQ(back[i], static_cast<float>(f16_t(static_cast<float>(brain[i]))));
  const std::vector<int32_t> integers{1, 2, 3, 1 << 30};
  std::vector<int32_t> copied(4);
  convert(copied.data(), DType::i32, integers.data(), DType::i32, 4);
  EXPECT_EQ(copied, integers);
  EXPECT_THROW(convert(copied.data(), DType::i32, values.data(), DType::f32, 4), InternalError);
  EXPECT_THROW(convert(back.data(), DType::f32, integers.data(), DType::i32, 4), InternalError);
}

}  // namespace tessera
