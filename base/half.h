#pragma once
#include <bit>
#include <cstdint>

namespace tessera {

// The two 16-bit floating-point formats as storage: arithmetic is done in fp32. Every rounding is to nearest, ties to even, unless a
// function says otherwise; NaN stays NaN, and what is too large becomes infinite. constexpr: CUDA kernels call them too.

/// bfloat16: the upper half of an fp32 number.
struct bf16_t {
  uint16_t bits = 0;
  bf16_t() = default;
  explicit constexpr bf16_t(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value), size = word & 0x7FFFFFFF;
    bits = static_cast<uint16_t>(size > 0x7F800000 ? word >> 16 | 0x40 : (word + 0x7FFF + (word >> 16 & 1)) >> 16);
  }
  constexpr operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

/// IEEE half precision: 10 bits of fraction, largest number 65504.
struct f16_t {
  uint16_t bits = 0;
  f16_t() = default;
  explicit constexpr f16_t(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value), size = word & 0x7FFFFFFF;
    const uint16_t sign = static_cast<uint16_t>(word >> 16 & 0x8000);
    uint32_t half;
    if (size >= 0x47800000) {  // 2^16 and above, NaN
      half = size > 0x7F800000 ? 0x7E00 : 0x7C00;
    } else if (size < 0x38800000) {  // below 2^-14: adding 1/2 leaves the fraction, rounded, in the low bits
      half = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3F000000;
    } else {  // the exponent's bias falls from 127 to 15; a carry out of the fraction is right, up to infinity
      half = (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13;
    }
    bits = static_cast<uint16_t>(sign | half);
  }
  constexpr operator float() const {
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16, size = bits & 0x7FFFu;
    uint32_t word;
    if (size >= 0x7C00) {  // infinite, NaN
      word = 0x7F800000 | (size & 0x3FF) << 13;
    } else if (size < 0x400) {  // below 2^-14: a whole number of 2^-24
      word = std::bit_cast<uint32_t>(static_cast<float>(size) * 0x1p-24f);
    } else {
      word = (size << 13) + 0x38000000;
    }
    return std::bit_cast<float>(sign | word);
  }
};

/// Rounds to one of the two neighbours with the probability of its nearness, so that the mean is exact: `random` is uniform in [0, 2^16).
/// Infinities and NaN stay.      Gupta et al. 2015, arXiv:1502.02551
constexpr bf16_t rounded_stochastically(float value, uint16_t random) {
  const uint32_t word = std::bit_cast<uint32_t>(value), size = word & 0x7FFFFFFF;
  if (size >= 0x7F800000) return bf16_t(value);
  bf16_t result;
  result.bits = static_cast<uint16_t>((word + random) >> 16);
  return result;
}

}  // namespace tessera
