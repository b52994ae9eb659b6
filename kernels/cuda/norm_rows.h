#pragma once
// What the norms' kernels share. Threads take eight columns at a time whatever the storage, so that sums have one order and results in 16
// bits are those in fp32, rounded. Products that meet a sum are fused by name or kept apart by name: nothing is left to the compiler.
#include <type_traits>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/warp.h"

namespace tessera::cuda {

constexpr int norm_columns = 8;  // that a thread takes together: 16 bytes of bf16 or fp16, 32 of fp32
template <class T>
using NormElements = Elements<T, norm_columns>;

/// A block takes a row. A warp's four groups for each lane are 1024 columns; longer rows take more warps, at most four.
constexpr int row_threads_max = 128;
inline unsigned row_threads(int64_t columns) {
  const int64_t warps = (columns + 1023) / 1024;
  return static_cast<unsigned>(warps < 1 ? 1 : warps > 4 ? 4 : warps) * warp_lanes;
}

/// body(how many groups of columns a thread holds in registers, as a constant): 4; 8 where they are of 16 bits; 0 for rows beyond that
/// (4096 columns of fp32, 8192 of 16 bits), which are read again, from the nearer caches, where they were just before.
template <class T, class Body>
void with_held_groups(int64_t columns, const Body& body) {
  const int64_t groups = (columns + norm_columns - 1) / norm_columns, each = (groups + row_threads(columns) - 1) / row_threads(columns);
  if (each <= 4) return body(std::integral_constant<int, 4>{});
  if constexpr (sizeof(T) == 2) {
    if (each <= 8) return body(std::integral_constant<int, 8>{});
  }
  body(std::integral_constant<int, 0>{});
}

/// Blocks of row_threads_max that a multiprocessor shall hold, which bounds the registers of a thread: the more rows are under way, the better
/// their loads and sums hide each other.
template <class T, int held>
constexpr int row_blocks = held == 0               ? 8
                           : held * sizeof(T) <= 8 ? 6
                                                   : 3;

/// body(index of the group, its first column) for the calling thread's groups of a row.
template <int held, class Body>
__device__ __forceinline__ void for_each_group(int64_t columns, const Body& body) {
  if constexpr (held > 0) {
#pragma unroll
    for (int k = 0; k < held; k++) {
      const int64_t column = int64_t{norm_columns} * (k * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
      if (column < columns) body(k, column);
    }
  } else {
    for (int64_t column = int64_t{norm_columns} * threadIdx.x; column < columns; column += int64_t{norm_columns} * blockDim.x) {
      body(0, column);
    }
  }
}

/// The calling thread's groups of one row: in registers, or where they are.
template <class T, int held>
class RowGroups {
 public:
  __device__ __forceinline__ void load(const T* row, int64_t columns, bool packed) {
    if constexpr (held > 0) {
      for_each_group<held>(columns, [&](int k, int64_t column) { groups_[k] = loaded(row, columns, column, packed); });
    }
  }
  __device__ __forceinline__ NormElements<T> get(int k, const T* row, int64_t columns, int64_t column, bool packed) const {
    if constexpr (held > 0) return groups_[k];
    return loaded(row, columns, column, packed);
  }
  __device__ __forceinline__ void set(int k, const NormElements<T>& group) {
    if constexpr (held > 0) groups_[k] = group;
  }

 private:
  static __device__ __forceinline__ NormElements<T> loaded(const T* row, int64_t columns, int64_t column, bool packed) {
    return load_elements<norm_columns>(row + column, elements_left<norm_columns>(columns, column), packed);
  }
  NormElements<T> groups_[held > 0 ? held : 1];
};

/// The sum over the block, in each thread. All threads must call it.
__device__ __forceinline__ float row_sum(float value) { return blockDim.x == warp_lanes ? warp_sum(value) : block_sum(value); }

template <class T>
Rows<T> rows_of(const Tensor& matrix) {
  return {elements_of<T>(matrix), matrix.empty() ? 0 : matrix.row_stride()};
}

}  // namespace tessera::cuda
