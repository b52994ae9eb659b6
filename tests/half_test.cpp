#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tessera {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

template <class Half>
Half from_bits(int bits) {
  Half half;
  half.bits = static_cast<uint16_t>(bits);
  return half;
}

/// The value of a bit pattern by the definition of the format.
double value_of(int bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double size = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                    : std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  return bits & 0x8000 ? -size : size;
}

template <class Half>
void expect_every_number_survives(int exponent_bits, int fraction_bits) {
  const int all_ones = (1 << exponent_bits) - 1;
  for (int bits = 0; bits < 65536; bits++) {
    const float value = from_bits<Half>(bits);
    if ((bits >> fraction_bits & all_ones) == all_ones) {
      EXPECT_EQ(std::isnan(value), (bits & ((1 << fraction_bits) - 1)) != 0);
      EXPECT_EQ(std::isnan(static_cast<float>(Half(value))), std::isnan(value));
      if (std::isnan(value)) continue;
    } else {
      EXPECT_EQ(value, value_of(bits, exponent_bits, fraction_bits)) << bits;
    }
    EXPECT_EQ(Half(value).bits, bits);
  }
}

/// Between each two neighbours: the middle goes to the even one, what lies beside the middle to the nearer one.
template <class Half>
void expect_rounding_to_nearest_even(int infinite_bits) {
  for (int bits = 0; bits + 1 < infinite_bits; bits++) {
    const float below = from_bits<Half>(bits), above = from_bits<Half>(bits + 1);
    const float middle = below + (above - below) / 2;
    if (middle == below || middle == above) continue;  // no fp32 number lies between
    EXPECT_EQ(Half(middle).bits, bits % 2 == 0 ? bits : bits + 1) << bits;
    EXPECT_EQ(Half(std::nextafter(middle, 0.0f)).bits, bits) << bits;
    EXPECT_EQ(Half(std::nextafter(middle, infinity)).bits, bits + 1) << bits;
    EXPECT_EQ(Half(-middle).bits, Half(middle).bits | 0x8000) << bits;
  }
}

TEST(Half, EveryNumberOfBothFormatsSurvivesTheWayToFp32AndBack) {
  expect_every_number_survives<bf16_t>(8, 7);
  expect_every_number_survives<f16_t>(5, 10);
}

TEST(Half, RoundsToTheNearestAndTiesToEven) {
  expect_rounding_to_nearest_even<bf16_t>(0x7F80);
  expect_rounding_to_nearest_even<f16_t>(0x7C00);
}

TEST(Half, WhatIsTooLargeBecomesInfinite) {
  EXPECT_EQ(static_cast<float>(f16_t(65519.0f)), 65504.0f);
  EXPECT_EQ(static_cast<float>(f16_t(65520.0f)), infinity);
  EXPECT_EQ(static_cast<float>(f16_t(-1e9f)), -infinity);
  EXPECT_EQ(static_cast<float>(bf16_t(std::numeric_limits<float>::max())), infinity);
}

TEST(Half, StochasticRoundingIsExactInTheMean) {
  for (const float value : {1.0f + 1.0f / 512, -3.14159265f, 1e-30f, 7.0f}) {
    double sum = 0;
    for (int random = 0; random < 65536; random++) sum += rounded_stochastically(value, static_cast<uint16_t>(random));
    EXPECT_EQ(sum / 65536, value);
  }
}

TEST(Half, StochasticRoundingKeepsWhatIsNotFinite) {
  EXPECT_EQ(static_cast<float>(rounded_stochastically(infinity, 65535)), infinity);
  EXPECT_TRUE(std::isnan(static_cast<float>(rounded_stochastically(std::nanf(""), 65535))));
}

}  // namespace
}  // namespace tessera
