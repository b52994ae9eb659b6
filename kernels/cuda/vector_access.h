#pragma once
// 16 bytes at a time, whatever the storage: 4 fp32, 8 bf16 or 8 fp16 elements. Arithmetic is in fp32.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/instructions.h"

namespace tessera::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

/// Rounded to nearest even; fp16 beyond 65504 becomes infinite.
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

/// 16 bytes of elements, at a multiple of 16 bytes.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T elements[size];
};
template <class T>
constexpr int pack_size = Pack<T>::size;

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* address) {
  return *reinterpret_cast<const Pack<T>*>(address);
}
/// To global memory.
template <class T>
__device__ __forceinline__ void store_pack(T* address, const Pack<T>& pack) {
  store_16_bytes(address, pack);
}

/// The same elements as fp32. N is a multiple of the pack; the address one of 16 bytes.
template <class T, int N>
__device__ __forceinline__ void load_floats(float (&values)[N], const T* address) {
  static_assert(N % pack_size<T> == 0, "whole packs of 16 bytes");
#pragma unroll
  for (int first = 0; first < N; first += pack_size<T>) {
    const Pack<T> pack = load_pack(address + first);
#pragma unroll
    for (int i = 0; i < pack_size<T>; i++) values[first + i] = to_float(pack.elements[i]);
  }
}
template <class T, int N>
__device__ __forceinline__ void store_floats(T* address, const float (&values)[N]) {
  static_assert(N % pack_size<T> == 0, "whole packs of 16 bytes");
#pragma unroll
  for (int first = 0; first < N; first += pack_size<T>) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < pack_size<T>; i++) pack.elements[i] = from_float<T>(values[first + i]);
    store_pack(address + first, pack);
  }
}

/// Whether 16-byte accesses may be used: the address and a row's bytes are multiples of 16.
inline bool is_packed(const void* address, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0 && row_bytes % 16 == 0;
}

}  // namespace tessera::cuda
