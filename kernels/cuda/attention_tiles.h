#pragma once
// What the attention kernels are made of: tiles of heads in shared memory, and products of a warp's 16 rows with a tile.
//
// A product's result lies in registers as multiply_add_16x8x16 gives it, whatever the type: with g = lane / 4 and t = lane % 4, sums[j] of
// a lane holds columns 8 j + 2 t and the next of row g, then of row g + 8. 16-bit tiles are multiplied by tensor cores, fp32 ones by plain
// multiply-adds in the same places.
#include <cstring>

#include "kernels/cuda/attention_operands.h"
#include "kernels/cuda/instructions.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/cuda/warp.h"

namespace tessera::cuda {

/// The rows of one head of one sequence.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride, rows, columns;
  bool packed;
};
template <class T, class Element>
__device__ __forceinline__ HeadRows<Element> rows_of(const AttentionOperands<T>& operands, const HeadMatrix<Element>& matrix, int64_t b,
                                                     int64_t head) {
  const AttentionShape& s = operands.shape;
  return {matrix.data + b * s.T * matrix.stride + head * s.D, matrix.stride, s.T, s.D, operands.packed};
}
__device__ __forceinline__ float* statistics_of(float* of, const AttentionShape& s, int64_t b, int64_t head) {
  return of + (b * s.A + head) * s.T;
}

constexpr int warp_rows = 16;

/// Tiles of [rows, width] elements; a head's width is filled up with zeros. A warp has 16 rows of the tile that a block keeps. 64 rows are two
/// waves of registers for S and dP beside the sums; wide tiles have fewer, since four tiles and fp32's weights must fit into the 99 KiB that a
/// block may have on sm_86, sm_89 and sm_120. On larger GPUs two blocks of an SM then hide each other's copies.
template <class T, int width_>
struct Tiles {
  static constexpr int width = width_;
  static constexpr int row_bytes = (width + pack_size<T>)*static_cast<int>(sizeof(T)), tile_bytes_max = 18 * 1024;
  static constexpr int rows = 64 * row_bytes <= tile_bytes_max ? 64 : 32 * row_bytes <= tile_bytes_max ? 32 : 16;
  static constexpr int warps = rows / warp_rows, threads = warps * warp_lanes;
  static constexpr int stride = width + pack_size<T>;  // 16 bytes more: eight rows are in eight different groups of banks
  static constexpr int elements = rows * stride;
  // fp32: each warp's weights on their way to multiply-adds, which want them by rows.
  static constexpr int weights_stride = rows + 4;
  static constexpr int weights = sizeof(T) == 4 ? rows * weights_stride : 0;
  // Two stages of the tiles that come by hide their copies behind arithmetic; one, where two would leave an SM a single block.
  static constexpr int stages = 2 * rows * row_bytes <= tile_bytes_max ? 2 : 1;
  /// Bytes of dynamic shared memory: `kept` tiles that stay, `passing` ones in stages, the statistics of a stage's queries, weights.
  static constexpr size_t shared_bytes(int kept, int passing) {
    return static_cast<size_t>(kept + passing * stages) * elements * sizeof(T) +
           (static_cast<size_t>(stages) * 2 * rows + weights) * sizeof(float);
  }
  static_assert(shared_bytes(2, 2) <= 99 * 1024);
};

/// Rows and columns of a lane's sums within the warp's 16 rows and a pair of columns.
__device__ __forceinline__ int row_of_lane(int half) { return lane_of_thread() / 4 + 8 * half; }
__device__ __forceinline__ int column_of_lane(int j) { return 8 * j + lane_of_thread() % 4 * 2; }

/// Begins to copy rows [first, first + rows) of a head into a tile; zeros beyond the head's rows and columns. To be committed and awaited.
template <class Tile, class T, class Element>
__device__ __forceinline__ void begin_tile(T* tile, const HeadRows<Element>& from, int64_t first) {
  constexpr int pack = pack_size<T>, packs = Tile::width / pack;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < Tile::rows * packs; i += Tile::threads) {
    const int row = i / packs, column = i % packs * pack;
    const bool valid = first + row < from.rows && column < from.columns;
    const T* source = valid ? from.data + (first + row) * from.stride + column : from.data;
    T* to = tile + row * Tile::stride + column;
    if (from.packed) {
      copy_16_bytes_async(to, source, valid);
    } else {
      for (int e = 0; e < pack; e++) to[e] = valid ? source[e] : from_float<T>(0.0f);
    }
  }
}

/// Rows [first, first + 16) of a head = factors[row's half] * sums, through the warp's own rows of a tile, which
/// nobody reads any more, so that whole rows are written.
template <class Tile, class T, int N>
__device__ __forceinline__ void store_rows(const HeadRows<T>& to, int64_t first, int first_column, T* tile, const float (&sums)[N][4],
                                           const float (&factors)[2]) {
#pragma unroll
  for (int j = 0; j < N; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++)
      tile[row_of_lane(i / 2) * Tile::stride + column_of_lane(j) + i % 2] = from_float<T>(sums[j][i] * factors[i / 2]);
  }
  __syncwarp();
  constexpr int pack = pack_size<T>, packs = N * 8 / pack;
  for (int i = lane_of_thread(); i < warp_rows * packs; i += warp_lanes) {
    const int row = i / packs, column = i % packs * pack;
    if (first + row >= to.rows || first_column + column >= to.columns) continue;
    const T* from = tile + row * Tile::stride + column;
    T* target = to.data + (first + row) * to.stride + first_column + column;
    if (to.packed) {
      store_pack(target, load_pack(from));
    } else {
      for (int e = 0; e < pack; e++) target[e] = from[e];
    }
  }
}

template <class Pair>
__device__ __forceinline__ uint32_t word_of(const Pair& pair) {
  static_assert(sizeof(Pair) == 4);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

/// Two numbers rounded to T, the first below.
__device__ __forceinline__ uint32_t rounded_pair(const __nv_bfloat16*, float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return word_of(pair);
}
__device__ __forceinline__ uint32_t rounded_pair(const __half*, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return word_of(pair);
}

/// sums [16, 8 N] += a b^T: a, the warp's 16 rows of one tile, b, the first 8 N rows of another.
template <class Tile, class T, int N>
__device__ __forceinline__ void add_products_of_rows(float (&sums)[N][4], const T* a, const T* b) {
  const int lane = lane_of_thread();
  const T *a_row = a + lane % 16 * Tile::stride + lane / 16 * 8, *b_row = b + (lane % 8 + lane / 16 * 8) * Tile::stride + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < Tile::width; k += 16) {
    uint32_t a_words[4];
    load_matrices(a_words, a_row + k);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      uint32_t b_words[4];
      load_matrices(b_words, b_row + j * 8 * Tile::stride + k);
      multiply_add_16x8x16<T>(sums[j], a_words, {b_words[0], b_words[1]});
      multiply_add_16x8x16<T>(sums[j + 1], a_words, {b_words[2], b_words[3]});
    }
  }
}
template <class Tile, int N>
__device__ __forceinline__ void add_products_of_rows(float (&sums)[N][4], const float* a, const float* b) {
  const float* a_rows[2] = {a + row_of_lane(0) * Tile::stride, a + row_of_lane(1) * Tile::stride};
#pragma unroll 1
  for (int k = 0; k < Tile::width; k += pack_size<float>) {
    const Pack<float> a0 = load_pack(a_rows[0] + k), a1 = load_pack(a_rows[1] + k);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float* b_row = b + column_of_lane(j) * Tile::stride + k;
      const Pack<float> b0 = load_pack(b_row), b1 = load_pack(b_row + Tile::stride);
#pragma unroll
      for (int i = 0; i < pack_size<float>; i++) {
        sums[j][0] += a0.elements[i] * b0.elements[i];
        sums[j][1] += a0.elements[i] * b1.elements[i];
        sums[j][2] += a1.elements[i] * b0.elements[i];
        sums[j][3] += a1.elements[i] * b1.elements[i];
      }
    }
  }
}

/// sums [16, 8 N] += w b: w [16, 8 K] in registers, rounded to T, b the first 8 K rows of a tile, from a column on. `scratch`: of the warp.
template <class Tile, class T, int N, int K>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[N][4], const float (&w)[K][4], const T* b, float* /*scratch*/) {
  const int lane = lane_of_thread();
  const T* b_row = b + lane % 16 * Tile::stride + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < K; k += 2) {
    const uint32_t a_words[4] = {rounded_pair(b, w[k][0], w[k][1]), rounded_pair(b, w[k][2], w[k][3]),
                                 rounded_pair(b, w[k + 1][0], w[k + 1][1]), rounded_pair(b, w[k + 1][2], w[k + 1][3])};
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      uint32_t b_words[4];
      load_matrices_transposed(b_words, b_row + k * 8 * Tile::stride + j * 8);
      multiply_add_16x8x16<T>(sums[j], a_words, {b_words[0], b_words[1]});
      multiply_add_16x8x16<T>(sums[j + 1], a_words, {b_words[2], b_words[3]});
    }
  }
}
template <class Tile, int N, int K>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[N][4], const float (&w)[K][4], const float* b, float* scratch) {
  __syncwarp();  // other lanes have read the weights before
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) scratch[row_of_lane(i / 2) * Tile::weights_stride + column_of_lane(k) + i % 2] = w[k][i];
  }
  __syncwarp();
#pragma unroll 1
  for (int k = 0; k < 8 * K; k++) {
    const float w0 = scratch[row_of_lane(0) * Tile::weights_stride + k], w1 = scratch[row_of_lane(1) * Tile::weights_stride + k];
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float2 pair = *reinterpret_cast<const float2*>(b + k * Tile::stride + column_of_lane(j));
      sums[j][0] += w0 * pair.x;
      sums[j][1] += w0 * pair.y;
      sums[j][2] += w1 * pair.x;
      sums[j][3] += w1 * pair.y;
    }
  }
}

/// Over the four lanes that share a row.
template <class Combine>
__device__ __forceinline__ float row_reduce(float value, Combine combine) {
  value = combine(value, __shfl_xor_sync(all_lanes, value, 1));
  return combine(value, __shfl_xor_sync(all_lanes, value, 2));
}

}  // namespace tessera::cuda
