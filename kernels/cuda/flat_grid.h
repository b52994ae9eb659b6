#pragma once
// Grids of kernels whose threads take one item of a flat range at a time, in any number.
#include <algorithm>

#include "kernels/cuda/launch.h"

namespace tessera::cuda {

constexpr int flat_threads = 128;

/// At least one item. Threads go on with stride where a grid cannot have as many.
inline LaunchShape flat_grid(int64_t items, Where where = Where::here()) {
  constexpr int64_t blocks_max = 2147483647;
  return {static_cast<unsigned>(std::min((items + flat_threads - 1) / flat_threads, blocks_max)), flat_threads, 0, where};
}

/// for (int64_t item = first_item(); item < items; item += items_apart())
__device__ __forceinline__ int64_t first_item() { return int64_t{blockIdx.x} * flat_threads + threadIdx.x; }
__device__ __forceinline__ int64_t items_apart() { return int64_t{gridDim.x} * flat_threads; }

/// a / b and a % b of numbers that are not negative: a division of 64 bits costs as much as several elements, so most are done in 32.
struct Quotient {
  int64_t quotient, remainder;
};
__device__ __forceinline__ Quotient divide(int64_t a, int64_t b) {
  if ((static_cast<uint64_t>(a) | static_cast<uint64_t>(b)) >> 32 == 0) {
    const auto small_a = static_cast<uint32_t>(a), small_b = static_cast<uint32_t>(b);
    return {small_a / small_b, small_a % small_b};
  }
  return {a / b, a % b};
}

}  // namespace tessera::cuda
