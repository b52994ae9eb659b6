// exp on vectors of floats, and loops and sums over arrays that are no multiple of a vector.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_SIMD_MATH_INL_H_
#undef TESSERA_KERNELS_CPU_SIMD_MATH_INL_H_
#else
#define TESSERA_KERNELS_CPU_SIMD_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// e^x within 1.5 ulp for x in [-87.3, 88.3]; 0 below; NaN stays NaN. For softmax, where no x is above 0.
/// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2 and a polynomial of degree 7.     Moshier, Cephes library, expf
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_up_to_88(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits; 127 more make it an exponent once shifted.
  const V magic = hn::Set(d, 12582912.0f + 127.0f);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896341f), magic);
  const V n = hn::Sub(shifted, magic);
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  const V r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));  // ln 2 in two parts
  // Powers of r^2 (Estrin) wait for each other less than powers of r (Horner).
  const V square = hn::Mul(r, r);
  const V p0 = hn::MulAdd(hn::Set(d, 1.6666665459e-1f), r, hn::Set(d, 5.0000001201e-1f));
  const V p2 = hn::MulAdd(hn::Set(d, 8.3334519073e-3f), r, hn::Set(d, 4.1665795894e-2f));
  const V p4 = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  const V beyond_one = hn::MulAdd(hn::MulAdd(hn::MulAdd(p4, square, p2), square, p0), square, r);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3f)), hn::MulAdd(beyond_one, power, power));
}

/// The same for any x: infinity above 88.3.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.3f)), hn::Set(d, __builtin_inff()), exp_up_to_88(d, x));
}

/// body(d, i) for every i in [0, n): whole vectors first, then one element at a time. Never touches element n, unlike masked memory
/// access on old instruction sets. The body is a lambda marked HWY_ATTR and generic in d.
template <class Body>
HWY_INLINE void for_each_vector(int64_t n, Body body) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; i++) body(one, i);
}

/// The sum of term(d, i) over i in [0, n). Four vectors at a time hide the latency of the additions.
template <class Term>
HWY_INLINE float sum_of_terms(int64_t n, Term term) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, term(d, i));
    s1 = hn::Add(s1, term(d, i + lanes));
    s2 = hn::Add(s2, term(d, i + 2 * lanes));
    s3 = hn::Add(s3, term(d, i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, term(d, i));
  float rest = 0;
  const hn::CappedTag<float, 1> one;
  for (; i < n; i++) rest += hn::GetLane(term(one, i));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)))) + rest;
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
