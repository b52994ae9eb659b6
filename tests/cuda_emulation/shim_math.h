#pragma once
// Functions of device code that the toolkit's headers do not declare for a C++ compiler. The approximate quotient and ex2.approx are as
// far off as CUDA allows; exp2f, __expf, __logf and rsqrt are the exact ones here.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

using std::max;
using std::min;

namespace cuda_emulation {
/// 2^x, nearly at its worst: 1.5 to 2 units in the last place off, up or down, unless it is exact.
inline float inexact_exp2(float x) {
  const double exact = std::exp2(static_cast<double>(x));
  const auto power = static_cast<float>(exact);
  if (x == std::floor(x) || !(power >= 0x1p-126f && power < INFINITY)) return power;
  const auto bits = std::bit_cast<std::uint32_t>(power);
  return std::bit_cast<float>(power > exact ? bits - 2 : bits + 2);
}
}  // namespace cuda_emulation

// Loads and stores with a cache hint.
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}
template <class T>
void __stcg(T* address, std::type_identity_t<T> value) {
  *address = value;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
/// a times an approximate reciprocal: 2 units in the last place in all, none where b is a power of two. What is below 2^-126 becomes 0.
inline float __fdividef(float a, float b) {
  float reciprocal = 1.0f / b;
  const float off = std::fma(reciprocal, b, -1.0f);  // of the nearest one, whose neighbour on the same side is taken
  if (std::abs(off) > 0) reciprocal = std::nextafter(reciprocal, (off > 0) == (b > 0) ? INFINITY : -INFINITY);
  return a * (std::abs(reciprocal) < 0x1p-126f ? 0.0f : reciprocal);
}
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline long long __double2ll_rn(double x) { return std::llrint(x); }  // to nearest even: the host's rounding mode
inline int __float2int_rn(float x) { return static_cast<int>(std::lrint(x)); }

inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= ((x >> i) & 1u) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((std::uint64_t{a} * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

template <class T>
requires(sizeof(T) == 2) T __hfma(T a, T b, T c) {
  return T(std::fma(static_cast<float>(a), static_cast<float>(b), static_cast<float>(c)));
}
