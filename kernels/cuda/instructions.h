#pragma once
// The only place with inline assembly: one function for each instruction, with what the PTX ISA says it does as the emulation's body. All
// need sm_80.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace tessera::cuda {

#ifndef TESSERA_CUDA_EMULATION
__device__ __forceinline__ unsigned shared_address(const void* address) { return static_cast<unsigned>(__cvta_generic_to_shared(address)); }
#endif

/// Stores 16 bytes to global memory, at a multiple of 16, in one access. nvcc knows the elements of what is assigned, and where another
/// branch stores them one by one it may do so in both.
template <class Value>
__device__ __forceinline__ void store_16_bytes(void* to_global, const Value& value) {
  static_assert(sizeof(Value) == 16 && alignof(Value) == 16);
#ifdef TESSERA_CUDA_EMULATION
  *static_cast<Value*>(to_global) = value;
#else
  const uint4 words = std::bit_cast<uint4>(value);
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(to_global)), "r"(words.x), "r"(words.y), "r"(words.z),
               "r"(words.w)
               : "memory");
#endif
}

/// Begins a copy of 16 bytes from global to shared memory, both at multiples of 16; not valid: 16 zero bytes, and nothing is read.
__device__ __forceinline__ void copy_16_bytes_async(void* to_shared, const void* from_global, bool valid = true) {
#ifdef TESSERA_CUDA_EMULATION
  ::cuda_emulation::copy_async(to_shared, from_global, 16, valid ? 16 : 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from_global), "r"(valid ? 16 : 0)
               : "memory");
#endif
}

/// Closes a group: the copies that this thread began since the last one.
__device__ __forceinline__ void commit_copies() {
#ifdef TESSERA_CUDA_EMULATION
  ::cuda_emulation::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `groups_left` of this thread's groups are under way. Other threads see the copies after a barrier only.
template <int groups_left>
__device__ __forceinline__ void wait_for_copies() {
#ifdef TESSERA_CUDA_EMULATION
  ::cuda_emulation::copy_async_wait(groups_left);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
#endif
}

/// 2^x to 2 units in the last place; what is below 2^-126 becomes 0.                                              PTX ISA, ex2.approx.ftz
__device__ __forceinline__ float exp2_approximate(float x) {
#ifdef TESSERA_CUDA_EMULATION
  return x < -126.0f ? 0.0f : ::cuda_emulation::inexact_exp2(x);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

#ifdef TESSERA_CUDA_EMULATION
/// Lane l names row l % 8 of matrix l / 8.
inline void emulate_load_matrices(uint32_t (&words)[4], const void* row, bool transposed) {
  const auto kind = transposed ? ::cuda_emulation::Collective::LoadMatrixTransposed : ::cuda_emulation::Collective::LoadMatrix;
  const void* rows[32];
  ::cuda_emulation::warp_gather(0xffffffffu, kind, &row, sizeof row, rows);
  const int lane = ::cuda_emulation::lane();
  for (int m = 0; m < 4; m++) {
    if (transposed) {
      const uint32_t low = static_cast<const uint16_t*>(rows[m * 8 + lane % 4 * 2])[lane / 4];
      const uint32_t high = static_cast<const uint16_t*>(rows[m * 8 + lane % 4 * 2 + 1])[lane / 4];
      words[m] = low | high << 16;
    } else {
      words[m] = static_cast<const uint32_t*>(rows[m * 8 + lane / 4])[lane % 4];
    }
  }
}
#endif

/// Four 8x8 matrices of 16-bit elements from shared memory. Lane l names the address of row l % 8 of matrix l / 8, at a multiple of 16 bytes,
/// and gets elements (l / 4, 2 (l % 4)) and the one right of it of each matrix, a word a matrix.          PTX ISA, ldmatrix
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* row) {
#ifdef TESSERA_CUDA_EMULATION
  emulate_load_matrices(words, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

/// As load_matrices, and each lane gets the elements of the transposed matrix: (2 (l % 4), l / 4) and the one below it.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
#ifdef TESSERA_CUDA_EMULATION
  emulate_load_matrices(words, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

#ifdef TESSERA_CUDA_EMULATION
template <class T>
void emulate_multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Registers {
    uint32_t a[4], b[2];
  } const mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  Registers all[32];
  ::cuda_emulation::warp_gather(0xffffffffu, ::cuda_emulation::Collective::Mma, &mine, sizeof mine, all);
  const auto value = [](uint32_t word, int upper) {
    return static_cast<float>(std::bit_cast<T>(static_cast<uint16_t>(word >> 16 * upper)));
  };
  const int lane = ::cuda_emulation::lane();
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      const uint32_t a_word = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], b_word = all[column * 4 + k % 8 / 2].b[k / 8];
      d[i] += value(a_word, k % 2) * value(b_word, k % 2);
    }
  }
}
#endif

/// d [16, 8] fp32 += a [16, 16] b [16, 8], T is bf16 or fp16, by all lanes of a warp. With g = lane / 4 and t = lane % 4, two elements a word:
///   a[0] (g, 2t)   a[1] (g + 8, 2t)   a[2] (g, 2t + 8)   a[3] (g + 8, 2t + 8)     as load_matrices gives them
///   b[0] (2t, g) and the one below    b[1] (2t + 8, g)                            as load_matrices gives them from rows of b transposed
///   d[0], d[1] (g, 2t), (g, 2t + 1)   d[2], d[3] (g + 8, 2t), (g + 8, 2t + 1)                  PTX ISA, mma.m16n8k16
template <class T>
__device__ __forceinline__ void multiply_add_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
#ifdef TESSERA_CUDA_EMULATION
  emulate_multiply_add<T>(d, a, b);
#else
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

}  // namespace tessera::cuda
