// Loads and stores of fp32, bf16 and fp16 memory: arithmetic is in fp32, whatever the storage.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_SIMD_STORAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_SIMD_STORAGE_INL_H_
#undef TESSERA_KERNELS_CPU_SIMD_STORAGE_INL_H_
#else
#define TESSERA_KERNELS_CPU_SIMD_STORAGE_INL_H_
#endif

#include <hwy/highway.h>

#include "base/half.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// As many elements as d has lanes, as fp32. d is a tag of float.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const bf16_t* from) {
  const hn::RebindToUnsigned<D> wide;
  const hn::Rebind<uint16_t, D> narrow;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(wide, hn::LoadU(narrow, &from->bits))));
}

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const f16_t* from) {
  const hn::Rebind<hwy::float16_t, D> narrow;
  return hn::PromoteTo(d, hn::LoadU(narrow, reinterpret_cast<const hwy::float16_t*>(from)));
}
#else
/// Instruction sets without conversions: as base/half.h does it.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const f16_t* from) {
  const hn::RebindToUnsigned<D> wide;
  const hn::Rebind<uint16_t, D> narrow;
  const auto word = hn::PromoteTo(wide, hn::LoadU(narrow, &from->bits));
  const auto sign = hn::ShiftLeft<16>(hn::And(word, hn::Set(wide, 0x8000u))), size = hn::And(word, hn::Set(wide, 0x7FFFu));
  const auto normal = hn::Add(hn::ShiftLeft<13>(size), hn::Set(wide, 0x38000000u));
  const auto special = hn::Or(hn::ShiftLeft<13>(hn::And(size, hn::Set(wide, 0x3FFu))), hn::Set(wide, 0x7F800000u));
  const hn::RebindToSigned<D> integers;
  const auto tiny = hn::Mul(hn::ConvertTo(d, hn::BitCast(integers, size)), hn::Set(d, 0x1p-24f));
  const auto is_tiny = hn::Lt(hn::BitCast(integers, size), hn::Set(integers, 0x400));
  const auto is_special = hn::Gt(hn::BitCast(integers, size), hn::Set(integers, 0x7BFF));
  const auto magnitude = hn::IfThenElse(hn::RebindMask(d, is_special), hn::BitCast(d, special), hn::BitCast(d, normal));
  return hn::BitCast(d, hn::Or(sign, hn::BitCast(wide, hn::IfThenElse(hn::RebindMask(d, is_tiny), tiny, magnitude))));
}
#endif

/// Rounds to nearest, ties to even; NaN stays NaN. (Highway's own demotion to bf16 truncates before version 1.0.4.)
template <class D>
HWY_INLINE void store(hn::Vec<D> value, D d, float* to) {
  hn::StoreU(value, d, to);
}

/// The upper 16 bits of each word.
template <class D, class W>
HWY_INLINE void store_upper_halves(W words, D, bf16_t* to) {
  const hn::Rebind<uint16_t, D> narrow;
  hn::StoreU(hn::TruncateTo(narrow, hn::ShiftRight<16>(words)), narrow, &to->bits);
}

/// Words whose upper halves are the values as bf16.
template <class D, class W = hn::Vec<hn::RebindToUnsigned<D>>>
HWY_INLINE W bf16_words(D, hn::Vec<D> value) {
  const hn::RebindToUnsigned<D> wide;
  const W word = hn::BitCast(wide, value);
  const W even = hn::And(hn::ShiftRight<16>(word), hn::Set(wide, 1u));
  const W rounded = hn::Add(word, hn::Add(even, hn::Set(wide, 0x7FFFu)));
  const W quiet = hn::Or(word, hn::Set(wide, 0x400000u));
  return hn::IfThenElse(hn::RebindMask(wide, hn::IsNaN(value)), quiet, rounded);
}

template <class D>
HWY_INLINE void store(hn::Vec<D> value, D d, bf16_t* to) {
  store_upper_halves(bf16_words(d, value), d, to);
}

/// As rounded_stochastically of base/half.h; `random` holds numbers in [0, 2^16).
template <class D>
HWY_INLINE void store_stochastically(hn::Vec<D> value, hn::Vec<hn::RebindToUnsigned<D>> random, D d, bf16_t* to) {
  const hn::RebindToUnsigned<D> wide;
  const auto word = hn::BitCast(wide, value), quiet = hn::Or(word, hn::Set(wide, 0x400000u));
  store_upper_halves(hn::IfThenElse(hn::RebindMask(wide, hn::IsNaN(value)), quiet, hn::Add(word, random)), d, to);
}

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
template <class D>
HWY_INLINE void store(hn::Vec<D> value, D d, f16_t* to) {
  const hn::Rebind<hwy::float16_t, D> narrow;
  hn::StoreU(hn::DemoteTo(narrow, value), narrow, reinterpret_cast<hwy::float16_t*>(to));
}
#else
template <class D>
HWY_INLINE void store(hn::Vec<D> value, D d, f16_t* to) {
  alignas(64) float lanes[HWY_MAX_BYTES / sizeof(float)];
  hn::StoreU(value, d, lanes);
  for (size_t i = 0; i < hn::Lanes(d); i++) to[i] = f16_t(lanes[i]);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
