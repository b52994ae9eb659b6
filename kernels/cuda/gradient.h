#pragma once
// Sums on their way to a gradient, which is fp32, or bf16 and rounded stochastically: the bits of kernels/cpu/gradient-inl.h.
#include <bit>

#include "base/half.h"
#include "kernels/cuda/random.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/gradient_write.h"

namespace tessera::cuda {

/// By a half word; infinities and NaN stay.
__device__ __forceinline__ __nv_bfloat16 rounded_to_bf16(float value, uint16_t random) {
  return std::bit_cast<__nv_bfloat16>(rounded_stochastically(value, random).bits);
}

/// What a kernel knows of a gradient beside its address; passed by value.
struct GradientRule {
  GradientWrite write;
  RandomStream rounding;  // of the parameter; bf16 only
};

/// *gradient = or += sum, made in fp32 and rounded once, bf16 by this half word of the rule's stream.
__device__ __forceinline__ void write_gradient(float* gradient, float sum, const GradientRule& rule, uint64_t /*half_word*/) {
  *gradient = rule.write == GradientWrite::Add ? *gradient + sum : sum;
}
__device__ __forceinline__ void write_gradient(__nv_bfloat16* gradient, float sum, const GradientRule& rule, uint64_t half_word) {
  if (rule.write == GradientWrite::Add) sum = to_float(*gradient) + sum;
  *gradient = rounded_to_bf16(sum, rule.rounding.half_word(half_word));
}

/// The same for N elements side by side, whole packs at a multiple of 16 bytes: element i by half word first_half_word + i.
template <int N>
__device__ __forceinline__ void write_gradients(float* gradient, const float (&sums)[N], const GradientRule& rule,
                                                uint64_t /*first_half_word*/) {
  if (rule.write == GradientWrite::Overwrite) {
    store_floats(gradient, sums);
    return;
  }
  float values[N];
  load_floats(values, gradient);
#pragma unroll
  for (int i = 0; i < N; i++) values[i] += sums[i];
  store_floats(gradient, values);
}
template <int N>
__device__ __forceinline__ void write_gradients(__nv_bfloat16* gradient, const float (&sums)[N], const GradientRule& rule,
                                                uint64_t first_half_word) {
  float values[N];
  if (rule.write == GradientWrite::Add) load_floats(values, gradient);
#pragma unroll
  for (int i = 0; i < N; i++) values[i] = rule.write == GradientWrite::Add ? values[i] + sums[i] : sums[i];
#pragma unroll
  for (int first = 0; first < N; first += pack_size<__nv_bfloat16>) {
    const EightHalfWords random = eight_half_words(rule.rounding, first_half_word + first);
    Pack<__nv_bfloat16> pack;
#pragma unroll
    for (int i = 0; i < pack_size<__nv_bfloat16>; i++) pack.elements[i] = rounded_to_bf16(values[first + i], random[i]);
    store_pack(gradient + first, pack);
  }
}

}  // namespace tessera::cuda
