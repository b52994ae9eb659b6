// Elementwise functions over arrays of fp32, bf16 or fp16.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_TRANSFORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_TRANSFORM_INL_H_
#undef TESSERA_KERNELS_CPU_TRANSFORM_INL_H_
#else
#define TESSERA_KERNELS_CPU_TRANSFORM_INL_H_
#endif

#include <type_traits>

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
/// Two vectors of bf16 at a time, those at even and those at odd places: a shift and a mask part them, and join them again, where
/// vectors of neighbours must be widened and narrowed. Returns how many elements are done.
template <size_t inputs, size_t outputs, class F>
HWY_INLINE int64_t transform_pairs(int64_t n, const bf16_t* const (&from)[inputs], bf16_t* const (&to)[outputs], F f) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> words;
  const hn::Repartition<uint16_t, decltype(d)> halves;
  using V = hn::Vec<decltype(d)>;
  const int64_t pairs = static_cast<int64_t>(hn::Lanes(halves));
  const auto upper = hn::Set(words, 0xFFFF0000u);
  int64_t i = 0;
  for (; i + pairs <= n; i += pairs) {
    V even[inputs], odd[inputs], even_results[outputs], odd_results[outputs];
    for (size_t k = 0; k < inputs; k++) {
      const auto both = hn::BitCast(words, hn::LoadU(halves, &from[k][i].bits));
      even[k] = hn::BitCast(d, hn::ShiftLeft<16>(both));
      odd[k] = hn::BitCast(d, hn::And(both, upper));
    }
    f(d, even, even_results);
    f(d, odd, odd_results);
    for (size_t k = 0; k < outputs; k++) {
      const auto both = hn::Or(hn::ShiftRight<16>(bf16_words_of_bf16_arithmetic(d, even_results[k])),
                               hn::And(bf16_words_of_bf16_arithmetic(d, odd_results[k]), upper));
      hn::StoreU(hn::BitCast(halves, both), halves, &to[k][i].bits);
    }
  }
  return i;
}
#endif

/// to[0][i], to[1][i], ... = f(from[0][i], from[1][i], ...) for i in [0, n), in fp32, rounded to nearest. f(d, in, out) is a lambda marked
/// HWY_ATTR and generic in its arguments: in and out are arrays of vectors. Outputs may be inputs.
template <class T, size_t inputs, size_t outputs, class F>
HWY_INLINE void transform(int64_t n, const T* const (&from)[inputs], T* const (&to)[outputs], F f) {
  int64_t done = 0;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<T, bf16_t>) done = transform_pairs(n, from, to, f);
#endif
  for_each_vector(n - done, [&, done](auto d, int64_t i) HWY_ATTR {
    hn::Vec<decltype(d)> in[inputs], out[outputs];
    for (size_t k = 0; k < inputs; k++) in[k] = load(d, from[k] + done + i);
    f(d, in, out);
    for (size_t k = 0; k < outputs; k++) store(out[k], d, to[k] + done + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
