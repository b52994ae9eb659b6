// Sums on their way to a gradient, which is fp32, or bf16 and rounded stochastically.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_GRADIENT_INL_H_
#undef TESSERA_KERNELS_CPU_GRADIENT_INL_H_
#else
#define TESSERA_KERNELS_CPU_GRADIENT_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"
#include "kernels/gradient_write.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

/// Half words [8 counter, 8 (counter + count)) of a stream; eight belong to a counter.
inline void half_words(const RandomStream& stream, uint64_t counter, int64_t count, uint16_t* halves) {
  constexpr int64_t most = 64;
  alignas(64) uint32_t even[2 * most], odd[2 * most];
  for (int64_t begin = 0; begin < count; begin += most) {
    const int64_t n = std::min(most, count - begin);
    philox_words(stream, counter + static_cast<uint64_t>(begin), n, even, odd);
    for (int64_t i = 0; i < 2 * n; i++, halves += 4) {
      halves[0] = static_cast<uint16_t>(even[i]), halves[1] = static_cast<uint16_t>(even[i] >> 16);
      halves[2] = static_cast<uint16_t>(odd[i]), halves[3] = static_cast<uint16_t>(odd[i] >> 16);
    }
  }
}

/// gradient[i] = or += sums[i] for n elements.
inline void write_gradient(float* gradient, const float* sums, int64_t n, GradientWrite write, const RandomStream&, uint64_t) {
  if (write == GradientWrite::Overwrite) return void(std::copy_n(sums, n, gradient));
  for_each_vector(
      n, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, gradient + i), hn::LoadU(d, sums + i)), d, gradient + i); });
}

/// The same in bf16: each sum is made in fp32 and rounded once, element i by half word first + i.
inline void write_gradient(bf16_t* gradient, const float* sums, int64_t n, GradientWrite write, const RandomStream& rounding,
                           uint64_t first) {
  constexpr int64_t counters = 64, most = 8 * counters;
  alignas(64) uint16_t halves[most];
  while (n > 0) {
    const int64_t skipped = static_cast<int64_t>(first % 8), count = std::min(n, most - skipped);
    half_words(rounding, first / 8, (skipped + count + 7) / 8, halves);
    const uint16_t* random = halves + skipped;
    for_each_vector(count, [=](auto d, int64_t i) HWY_ATTR {
      const hn::RebindToUnsigned<decltype(d)> wide;
      const hn::Rebind<uint16_t, decltype(d)> narrow;
      auto value = hn::LoadU(d, sums + i);
      if (write == GradientWrite::Add) value = hn::Add(load(d, gradient + i), value);
      const auto word = hn::BitCast(wide, value), added = hn::Add(word, hn::PromoteTo(wide, hn::LoadU(narrow, random + i)));
      // Infinities and NaN stay: a carry would make them something else.
      const auto kept = bf16_words(d, value);
      store_upper_halves(hn::IfThenElse(hn::RebindMask(wide, hn::IsFinite(value)), added, kept), d, gradient + i);
    });
    gradient += count, sums += count, first += static_cast<uint64_t>(count), n -= count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
