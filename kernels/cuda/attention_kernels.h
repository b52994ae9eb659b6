#pragma once
// Causal attention in tiles of 64 queries and 64 keys (Dao et al. 2022, arXiv:2205.14135): scores live in registers only.
//
// Nothing is added to by more than one block, so every sum has one order. For that the backward takes two passes, over tiles of queries for dq
// and over tiles of keys for dk and dv, and computes scores in both: 7 products for each pair of tiles, where float atomics would allow 5.
// What bounds these kernels is arithmetic; tiles that come by are copied while the ones before are multiplied.
// B sequences of T tokens, A query heads, K key/value heads, D head width. Included by one .cu file for each type, which nvcc compiles at once.
#include <cmath>
#include <type_traits>

#include "base/error.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/launch.h"

namespace tessera::cuda {

/// Which tile of which head of which sequence a block computes. The tiles of a head stand side by side, so that blocks at work share its keys
/// and values in L2.
struct Place {
  int64_t b, head, tile, tiles;
};
template <class Tile>
__device__ __forceinline__ Place place_of_block(const AttentionShape& s, int64_t heads) {
  const int64_t tiles = (s.T + Tile::rows - 1) / Tile::rows, i = blockIdx.x;
  return {i / tiles / heads, i / tiles % heads, i % tiles, tiles};
}

/// Where a block's tiles stand in dynamic shared memory.
template <class Tile, class T, int kept, int passing>
struct TileMemory {
  T* tiles = dynamic_shared<T>();
  __device__ __forceinline__ T* of_kept(int i) const { return tiles + i * Tile::elements; }
  __device__ __forceinline__ T* of_stage(int64_t step, int i) const {
    return tiles + (kept + static_cast<int>(step % Tile::stages) * passing + i) * Tile::elements;
  }
  __device__ __forceinline__ float* after_tiles() const {
    return reinterpret_cast<float*>(tiles + (kept + Tile::stages * passing) * Tile::elements);
  }
  /// lse and delta of a stage's queries, [2, rows].
  __device__ __forceinline__ float* statistics(int64_t step) const { return after_tiles() + step % Tile::stages * 2 * Tile::rows; }
  __device__ __forceinline__ float* weights_of_warp() const {
    return after_tiles() + Tile::stages * 2 * Tile::rows + warp_of_thread() * warp_rows * Tile::weights_stride;
  }
};

/// body(step) for steps [0, steps), each between begin(step), which begins to copy its tiles into its stage, and the barrier after which the
/// stage is used again. All threads of the block come by.
template <class Tile, class Begin, class Body>
__device__ __forceinline__ void for_tiles(int64_t steps, Begin begin, Body body) {
  begin(0);
  commit_copies();
  for (int64_t step = 0; step < steps; step++) {
    if constexpr (Tile::stages == 2) {
      if (step + 1 < steps) begin(step + 1);
      commit_copies();  // empty at the end, so that there is always one group behind this step's
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    body(step);
    __syncthreads();
    if constexpr (Tile::stages == 1) {
      if (step + 1 < steps) begin(step + 1);
      commit_copies();
    }
  }
}

constexpr float log2_of_e = 1.44269504088896341f;

/// Scores are divided by sqrt(D); exponentials are powers of two.
struct ScoreScale {
  float scale, in_base_2;
};
__device__ __forceinline__ ScoreScale score_scale(int64_t D) {
  const float scale = 1 / sqrtf(static_cast<float>(D));
  return {scale, scale * log2_of_e};
}

/// What the forward knows of a lane's two rows: the largest score and the lane's part of the sum of e^(score - largest).
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  /// Turns scores [16, 8 K] into e^(scale (score - largest)) with the new largest, and brings sum and out up to it.
  template <int K, int N>
  __device__ __forceinline__ void add(float (&scores)[K][4], float (&out)[N][4], float in_base_2) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float top = largest[r];
#pragma unroll
      for (int j = 0; j < K; j++) top = fmaxf(top, fmaxf(scores[j][2 * r], scores[j][2 * r + 1]));  // a NaN shows in its power below
      top = row_reduce(top, [](float a, float b) { return fmaxf(a, b); });
      const float offset = top * in_base_2, shrink = exp2f(largest[r] * in_base_2 - offset);
      largest[r] = top;
      float tile_sum = 0;
#pragma unroll
      for (int j = 0; j < K; j++) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) {
          scores[j][i] = exp2f(fmaf(scores[j][i], in_base_2, -offset));
          tile_sum += scores[j][i];
        }
      }
      sum[r] = sum[r] * shrink + tile_sum;
#pragma unroll
      for (int j = 0; j < N; j++) out[j][2 * r] *= shrink, out[j][2 * r + 1] *= shrink;
    }
  }
};

/// y and lse. Kept: q. Passing: k, v.
template <class T, int width>
__global__ void __launch_bounds__(Tiles<T, width>::threads) attention_forward_kernel(AttentionOperands<T> o) {
  using Tile = Tiles<T, width>;
  constexpr int K = Tile::rows / 8, N = width / 8;
  const TileMemory<Tile, T, 1, 2> memory;
  Place at = place_of_block<Tile>(o.shape, o.shape.A);
  at.tile = at.tiles - 1 - at.tile;  // the longest first
  const int64_t shared_head = at.head / (o.shape.A / o.shape.K), first_query = at.tile * Tile::rows + warp_of_thread() * warp_rows;
  const auto q = rows_of(o, o.q, at.b, at.head), k = rows_of(o, o.k, at.b, shared_head), v = rows_of(o, o.v, at.b, shared_head);
  T* own_rows = memory.of_kept(0) + warp_of_thread() * warp_rows * Tile::stride;
  const ScoreScale score = score_scale(o.shape.D);
  float out[N][4] = {};
  Softmax softmax;

  begin_tile<Tile>(memory.of_kept(0), q, at.tile * Tile::rows);
  const auto begin = [&](int64_t step) {
    begin_tile<Tile>(memory.of_stage(step, 0), k, step * Tile::rows);
    begin_tile<Tile>(memory.of_stage(step, 1), v, step * Tile::rows);
  };
  for_tiles<Tile>(at.tile + 1, begin, [&](int64_t step) {
    float scores[K][4] = {};
    add_products_of_rows<Tile>(scores, own_rows, memory.of_stage(step, 0));
    if (step == at.tile) {  // the diagonal: a query sees no key after it, nor what fills up the last tile
#pragma unroll
      for (int j = 0; j < K; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (column_of_lane(j) + i % 2 > warp_of_thread() * warp_rows + row_of_lane(i / 2)) scores[j][i] = -INFINITY;
        }
      }
    }
    softmax.add(scores, out, score.in_base_2);
    add_weighted_rows<Tile>(out, scores, memory.of_stage(step, 1), memory.weights_of_warp());
  });

  float* lse = statistics_of(o.lse, o.shape, at.b, at.head);
  float factors[2];
  for (int r = 0; r < 2; r++) {
    const float sum = row_reduce(softmax.sum[r], Sum{});
    const int64_t row = first_query + row_of_lane(r);
    factors[r] = 1 / sum;
    if (row < o.shape.T && lane_of_thread() % 4 == 0) lse[row] = fmaf(softmax.largest[r], score.scale, logf(sum));
  }
  store_rows<Tile>(rows_of(o, o.y, at.b, at.head), first_query, 0, own_rows, out, factors);
}

/// scores and dp = dy v^T [16, 8 K] become p = e^(scale score - lse) and ds = p (dp - delta). lse_of(i), delta_of(i): of element i of each pair
/// of rows and columns (0 to 3) of group j; masked(j, i): the key comes after the query.
template <int K, class LseOf, class DeltaOf, class Masked>
__device__ __forceinline__ void weigh(float (&scores)[K][4], float (&dp)[K][4], float in_base_2, LseOf lse_of, DeltaOf delta_of,
                                      Masked masked) {
#pragma unroll
  for (int j = 0; j < K; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool none = masked(j, i);
      const float p = none ? 0.0f : exp2f(fmaf(scores[j][i], in_base_2, -lse_of(j, i)));
      scores[j][i] = p;
      dp[j][i] = none ? 0.0f : p * (dp[j][i] - delta_of(j, i));
    }
  }
}

/// delta of the warp's 16 rows, two lanes a row: the sum of dy y. Lanes 2 r and 2 r + 1 get that of row r.
template <class Tile, class T, class Element>
__device__ __forceinline__ float delta_of_rows(const T* dy_rows, const HeadRows<Element>& y, int64_t first) {
  constexpr int pack = pack_size<T>;
  const int row = lane_of_thread() / 2, half = lane_of_thread() % 2;
  float sum = 0;
  if (first + row < y.rows) {
    const Element* y_row = y.data + (first + row) * y.stride;
    for (int column = half * pack; column < y.columns; column += 2 * pack) {
      Pack<T> of_y;
      if (y.packed) {
        of_y = load_pack(y_row + column);
      } else {
        for (int e = 0; e < pack; e++) of_y.elements[e] = y_row[column + e];
      }
      const Pack<T> of_dy = load_pack(dy_rows + row * Tile::stride + column);
#pragma unroll
      for (int e = 0; e < pack; e++) sum += to_float(of_dy.elements[e]) * to_float(of_y.elements[e]);
    }
  }
  return sum + __shfl_xor_sync(all_lanes, sum, 1);
}

/// dq and delta. Kept: q, dy. Passing: k, v.
template <class T, int width>
__global__ void __launch_bounds__(Tiles<T, width>::threads) attention_query_gradient_kernel(AttentionOperands<T> o) {
  using Tile = Tiles<T, width>;
  constexpr int K = Tile::rows / 8, N = width / 8;
  const TileMemory<Tile, T, 2, 2> memory;
  Place at = place_of_block<Tile>(o.shape, o.shape.A);
  at.tile = at.tiles - 1 - at.tile;  // the longest first
  const int64_t shared_head = at.head / (o.shape.A / o.shape.K), first_query = at.tile * Tile::rows + warp_of_thread() * warp_rows;
  const auto k = rows_of(o, o.k, at.b, shared_head), v = rows_of(o, o.v, at.b, shared_head);
  T *own_q = memory.of_kept(0) + warp_of_thread() * warp_rows * Tile::stride, *own_dy = own_q + Tile::elements;
  const ScoreScale score = score_scale(o.shape.D);
  float dq[N][4] = {}, lse[2], delta[2];

  begin_tile<Tile>(memory.of_kept(0), rows_of(o, o.q, at.b, at.head), at.tile * Tile::rows);
  begin_tile<Tile>(memory.of_kept(1), rows_of(o, o.dy, at.b, at.head), at.tile * Tile::rows);
  const auto begin = [&](int64_t step) {
    begin_tile<Tile>(memory.of_stage(step, 0), k, step * Tile::rows);
    begin_tile<Tile>(memory.of_stage(step, 1), v, step * Tile::rows);
  };
  for_tiles<Tile>(at.tile + 1, begin, [&](int64_t step) {
    if (step == 0) {  // dy has come
      const float of_row = delta_of_rows<Tile>(own_dy, rows_of(o, o.y, at.b, at.head), first_query);
      const int64_t written = first_query + lane_of_thread() / 2;
      if (written < o.shape.T && lane_of_thread() % 2 == 0) statistics_of(o.delta, o.shape, at.b, at.head)[written] = of_row;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int64_t row = first_query + row_of_lane(r);
        delta[r] = __shfl_sync(all_lanes, of_row, 2 * row_of_lane(r));
        lse[r] = row < o.shape.T ? statistics_of(o.lse, o.shape, at.b, at.head)[row] * log2_of_e : INFINITY;
      }
    }
    float scores[K][4] = {}, ds[K][4] = {};
    add_products_of_rows<Tile>(scores, own_q, memory.of_stage(step, 0));
    add_products_of_rows<Tile>(ds, own_dy, memory.of_stage(step, 1));
    const bool diagonal = step == at.tile;
    weigh(
        scores, ds, score.in_base_2, [&](int, int i) { return lse[i / 2]; }, [&](int, int i) { return delta[i / 2]; },
        [&](int j, int i) { return diagonal && column_of_lane(j) + i % 2 > warp_of_thread() * warp_rows + row_of_lane(i / 2); });
    add_weighted_rows<Tile>(dq, ds, memory.of_stage(step, 0), memory.weights_of_warp());
  });
  store_rows<Tile>(rows_of(o, o.dq, at.b, at.head), first_query, 0, own_q, dq, {score.scale, score.scale});
}

/// Columns of dk and dv that a block keeps in registers; wider heads take several blocks a tile, which compute the same scores.
template <int width>
constexpr int gradient_columns = width > 128 ? 128 : width;

/// dk and dv of the columns [column, column + gradient_columns). Kept: k, v. Passing: q, dy, of every query head that shares the key head.
/// Scores are transposed here: a row for each key.
template <class T, int width>
__global__ void __launch_bounds__(Tiles<T, width>::threads) attention_key_gradient_kernel(AttentionOperands<T> o) {
  using Tile = Tiles<T, width>;
  constexpr int K = Tile::rows / 8, N = gradient_columns<width> / 8;
  const TileMemory<Tile, T, 2, 2> memory;
  const Place at = place_of_block<Tile>(o.shape, o.shape.K);  // the first tile of keys has the most queries
  const int first_column = static_cast<int>(blockIdx.y) * gradient_columns<width>;
  const int64_t sharing = o.shape.A / o.shape.K, first_head = at.head * sharing, tiles_seen = at.tiles - at.tile;
  T *own_k = memory.of_kept(0) + warp_of_thread() * warp_rows * Tile::stride, *own_v = own_k + Tile::elements;
  const ScoreScale score = score_scale(o.shape.D);
  float dk[N][4] = {}, dv[N][4] = {};

  begin_tile<Tile>(memory.of_kept(0), rows_of(o, o.k, at.b, at.head), at.tile * Tile::rows);
  begin_tile<Tile>(memory.of_kept(1), rows_of(o, o.v, at.b, at.head), at.tile * Tile::rows);
  const auto begin = [&](int64_t step) {
    const int64_t head = first_head + step / tiles_seen, first_query = (at.tile + step % tiles_seen) * Tile::rows;
    begin_tile<Tile>(memory.of_stage(step, 0), rows_of(o, o.q, at.b, head), first_query);
    begin_tile<Tile>(memory.of_stage(step, 1), rows_of(o, o.dy, at.b, head), first_query);
    for (int i = static_cast<int>(threadIdx.x); i < Tile::rows; i += Tile::threads) {
      const int64_t query = first_query + i;
      const bool valid = query < o.shape.T;
      memory.statistics(step)[i] = valid ? statistics_of(o.lse, o.shape, at.b, head)[query] * log2_of_e : INFINITY;  // no weight
      memory.statistics(step)[Tile::rows + i] = valid ? statistics_of(o.delta, o.shape, at.b, head)[query] : 0.0f;
    }
  };
  for_tiles<Tile>(sharing * tiles_seen, begin, [&](int64_t step) {
    const T *q = memory.of_stage(step, 0), *dy = memory.of_stage(step, 1);
    float p[K][4] = {}, ds[K][4] = {};
    add_products_of_rows<Tile>(p, own_k, q);
    add_products_of_rows<Tile>(ds, own_v, dy);
    const float *lse = memory.statistics(step), *delta = lse + Tile::rows;
    const bool diagonal = step % tiles_seen == 0;
    weigh(
        p, ds, score.in_base_2, [&](int j, int i) { return lse[column_of_lane(j) + i % 2]; },
        [&](int j, int i) { return delta[column_of_lane(j) + i % 2]; },
        [&](int j, int i) { return diagonal && warp_of_thread() * warp_rows + row_of_lane(i / 2) > column_of_lane(j) + i % 2; });
    add_weighted_rows<Tile>(dv, p, dy + first_column, memory.weights_of_warp());
    add_weighted_rows<Tile>(dk, ds, q + first_column, memory.weights_of_warp());
  });
  const int64_t first_key = at.tile * Tile::rows + warp_of_thread() * warp_rows;
  store_rows<Tile>(rows_of(o, o.dk, at.b, at.head), first_key, first_column, own_k, dk, {score.scale, score.scale});
  store_rows<Tile>(rows_of(o, o.dv, at.b, at.head), first_key, first_column, own_v, dv, {1.0f, 1.0f});
}

/// A block for each tile of each head.
template <class Tile>
unsigned blocks_of(const AttentionShape& s, int64_t heads) {
  const int64_t blocks = s.B * heads * ((s.T + Tile::rows - 1) / Tile::rows);
  invariant(blocks < int64_t{1} << 31, "attention of more tiles than a grid has blocks");
  return static_cast<unsigned>(blocks);
}

template <class T, int width>
void run_forward(const AttentionOperands<T>& o, cudaStream_t stream) {
  using Tile = Tiles<T, width>;
  launch(attention_forward_kernel<T, width>, {blocks_of<Tile>(o.shape, o.shape.A), Tile::threads, Tile::shared_bytes(1, 2)}, stream, o);
}

template <class T, int width>
void run_backward(const AttentionOperands<T>& o, cudaStream_t stream) {
  using Tile = Tiles<T, width>;
  launch(attention_query_gradient_kernel<T, width>, {blocks_of<Tile>(o.shape, o.shape.A), Tile::threads, Tile::shared_bytes(2, 2)}, stream,
         o);
  const dim3 blocks(blocks_of<Tile>(o.shape, o.shape.K), width / gradient_columns<width>);
  launch(attention_key_gradient_kernel<T, width>, {blocks, Tile::threads, Tile::shared_bytes(2, 2)}, stream, o);
}

/// body(std::integral_constant<int, width>) for the narrowest width that holds D columns.
template <class Body>
void with_width(int64_t D, Body body) {
  if (D <= 32) return body(std::integral_constant<int, 32>());
  if (D <= 64) return body(std::integral_constant<int, 64>());
  if (D <= 128) return body(std::integral_constant<int, 128>());
  invariant(D <= 256, "attention: heads are at most 256 wide");
  body(std::integral_constant<int, 256>());
}

template <class T>
void attention_forward(const AttentionOperands<T>& o, cudaStream_t stream) {
  with_width(o.shape.D, [&](auto width) { run_forward<T, width()>(o, stream); });
}
template <class T>
void attention_backward(const AttentionOperands<T>& o, cudaStream_t stream) {
  with_width(o.shape.D, [&](auto width) { run_backward<T, width()>(o, stream); });
}

}  // namespace tessera::cuda
