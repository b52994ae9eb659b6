#pragma once
// N neighbours of a row in the registers of one thread, in accesses of up to 16 bytes, or one by one where addresses or ends do not allow
// that.
#include <bit>

#include "kernels/cuda/gradient.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/tensor.h"

namespace tessera::cuda {

/// Kept as words, two elements of 16 bits in each: as elements of their own, each would take a register.
template <class T, int N>
class Elements {
 public:
  static constexpr int bytes = N * static_cast<int>(sizeof(T)), access = bytes < 16 ? bytes : 16;
  static_assert(bytes % access == 0 && access >= 4 && (access & (access - 1)) == 0, "whole accesses of 16 bytes, or of 4 or 8");
  /// What one access moves.
  struct alignas(access) Part {
    T elements[access / static_cast<int>(sizeof(T))];
  };
  static constexpr int parts = bytes / access;

  __device__ __forceinline__ float operator[](int i) const { return to_float(get(i)); }
  __device__ __forceinline__ T get(int i) const {
    if constexpr (sizeof(T) == 4)
      return std::bit_cast<T>(words_[i]);
    else
      return std::bit_cast<T>(static_cast<uint16_t>(words_[i / 2] >> (i % 2 * 16)));
  }
  __device__ __forceinline__ void set(int i, float value) { put(i, from_float<T>(value)); }
  __device__ __forceinline__ void put(int i, T value) {
    if constexpr (sizeof(T) == 4) {
      words_[i] = std::bit_cast<uint32_t>(value);
    } else {
      const uint32_t bits = std::bit_cast<uint16_t>(value);
      words_[i / 2] = i % 2 == 0 ? (words_[i / 2] & 0xffff0000u) | bits : (words_[i / 2] & 0xffffu) | bits << 16;
    }
  }
  __device__ __forceinline__ Part part(int p) const {
    Words words;
#pragma unroll
    for (int i = 0; i < words_of_part; i++) words.of[i] = words_[p * words_of_part + i];
    return std::bit_cast<Part>(words);
  }
  __device__ __forceinline__ void set_part(int p, const Part& part) {
    const Words words = std::bit_cast<Words>(part);
#pragma unroll
    for (int i = 0; i < words_of_part; i++) words_[p * words_of_part + i] = words.of[i];
  }

 private:
  static constexpr int words_of_part = access / 4;
  struct alignas(access) Words {
    uint32_t of[words_of_part];
  };
  uint32_t words_[bytes / 4] = {};
};

/// How many of N elements from `first` on a row of `columns` has: none at all, where `first` lies beyond its end.
template <int N>
__device__ __forceinline__ int elements_left(int64_t columns, int64_t first) {
  const int64_t left = columns - first;
  return left >= N ? N : left > 0 ? static_cast<int>(left) : 0;
}

/// `count` elements from `address` on and zeros. `packed`: whole groups of N start at multiples of their access.
template <int N, class T>
__device__ __forceinline__ Elements<T, N> load_elements(const T* address, int count, bool packed) {
  Elements<T, N> result;
  if (packed && count == N) {
#pragma unroll
    for (int p = 0; p < result.parts; p++) result.set_part(p, reinterpret_cast<const typename Elements<T, N>::Part*>(address)[p]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (i < count) result.put(i, address[i]);
    }
  }
  return result;
}

template <class T, int N>
__device__ __forceinline__ void store_elements(T* address, const Elements<T, N>& values, int count, bool packed) {
  if (packed && count == N) {
#pragma unroll
    for (int p = 0; p < values.parts; p++) {
      auto* part = reinterpret_cast<typename Elements<T, N>::Part*>(address) + p;
      if constexpr (Elements<T, N>::access == 16)
        store_16_bytes(part, values.part(p));
      else
        *part = values.part(p);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (i < count) address[i] = values.get(i);
    }
  }
}

/// write_gradients() for `count` of eight elements at any address.
template <class T>
__device__ __forceinline__ void write_gradient_elements(T* gradient, const float (&sums)[8], int count, bool packed,
                                                        const GradientRule& rule, uint64_t first_half_word) {
  if (packed && count == 8) return write_gradients(gradient, sums, rule, first_half_word);
  EightHalfWords random{};
  if constexpr (sizeof(T) == 2) random = eight_half_words(rule.rounding, first_half_word);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i >= count) continue;
    const float sum = rule.write == GradientWrite::Add ? to_float(gradient[i]) + sums[i] : sums[i];
    if constexpr (sizeof(T) == 2)
      gradient[i] = rounded_to_bf16(sum, random[i]);
    else
      gradient[i] = sum;
  }
}

/// A matrix as kernels see it: rows may lie apart.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  __device__ __forceinline__ T* operator[](int64_t row) const { return data + row * stride; }
};

/// Whether every row of a matrix, or a vector, starts at a multiple of 16 bytes. An empty tensor stands in nobody's way.
inline bool starts_packed(const Tensor& tensor) {
  return tensor.empty() || is_packed(tensor.data, tensor.shape.rank() == 2 ? tensor.row_stride() * bytes_of(tensor.dtype) : 0);
}
template <class... Tensors>
bool all_packed(const Tensors&... tensors) {
  return (starts_packed(tensors) && ...);
}

}  // namespace tessera::cuda
