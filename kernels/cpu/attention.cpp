// Causal attention in tiles that stay in the nearest caches: 64 queries meet 64 keys at a time.
//
// Scores are held transposed, a row for each key and a lane for each query: then the maxima and sums of the softmax need no step across
// lanes, and keys and values are read as they are. Only the queries (and dy) are transposed, once for a tile.
// Tiles are fp32, whatever the matrices are stored in: conversion is part of the packing. Gradients are summed in fp32 and rounded once.
// Every sum has an order of its own, so the bits do not depend on the number of threads.
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention_heads.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"
#include "kernels/cpu/tile_matmul-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t tile = 64;        // queries or keys
constexpr int64_t max_width = 256;  // of a head, as attention_ops.cpp checks
using Floats = hn::ScalableTag<float>;

/// Queries are worked on in panels of two vectors.
int64_t panel_width() { return 2 * static_cast<int64_t>(hn::Lanes(Floats())); }

/// A head's width rounded up to whole vectors of every instruction set; what is added is zero.
int64_t padded(int64_t D) { return (D + 15) / 16 * 16; }

int64_t tile_rows(int64_t T, int64_t index) { return std::min(tile, T - index * tile); }

/// to [tile, padded(D)] = factor * rows [0, count), zero elsewhere.
template <class T>
void pack(float* to, const T* rows, int64_t stride, int64_t count, int64_t D, float factor) {
  const int64_t width = padded(D);
  for (int64_t r = 0; r < count; r++, to += width, rows += stride) {
    for_each_vector(D, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(load(d, rows + i), hn::Set(d, factor)), d, to + i); });
    std::fill(to + D, to + width, 0.0f);
  }
  std::fill_n(to, (tile - count) * width, 0.0f);
}

/// rows [0, count) = factor * from [count, padded(D)], rounded to nearest.
template <class T>
void unpack(T* rows, int64_t stride, const float* from, int64_t count, int64_t D, float factor) {
  for (int64_t r = 0; r < count; r++, rows += stride, from += padded(D)) {
    for_each_vector(D, [=](auto d, int64_t i) HWY_ATTR { store(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, factor)), d, rows + i); });
  }
}

/// Tile `index` of one head's rows into fp32, and back.
void pack_tile(float* to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head, int64_t index,
               float factor = 1) {
  with_storage(heads.dtype, [&]<class T>(T*) {
    const auto rows = heads.rows<T>(matrix, b, head);
    pack(to, rows[index * tile], rows.stride, tile_rows(heads.shape.T, index), heads.shape.D, factor);
  });
}
void unpack_tile(const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head, int64_t index,
                 const float* from, float factor = 1) {
  with_storage(heads.dtype, [&]<class T>(T*) {
    const auto rows = heads.rows<T>(matrix, b, head);
    unpack(rows[index * tile], rows.stride, from, tile_rows(heads.shape.T, index), heads.shape.D, factor);
  });
}

/// Scores are divided by sqrt(D), and so is their gradient.
float score_scale(const AttentionHeads& heads) { return 1 / std::sqrt(static_cast<float>(heads.shape.D)); }

/// Panels [D, panel_width()] of the transposed rows, one behind the other.
void transpose_panels(float* to, const float* packed, int64_t D) {
  const int64_t panel = panel_width(), width = padded(D);
  for (int64_t c = 0; c < tile; c += panel) {
    for (int64_t i = 0; i < D; i++) {
      for (int64_t lane = 0; lane < panel; lane++) *to++ = packed[(c + lane) * width + i];
    }
  }
}

/// body(d, column) for the two vectors of a panel.
template <class Body>
HWY_INLINE void for_panel(Body body) {
  const Floats d;
  body(d, int64_t{0});
  body(d, static_cast<int64_t>(hn::Lanes(d)));
}

/// True in the lanes whose query, counted from the tile's first, comes before `key`.
template <class D>
HWY_INLINE auto before(D d, int64_t first_query, int64_t key) {
  return hn::Lt(hn::Iota(d, static_cast<float>(first_query)), hn::Set(d, static_cast<float>(key)));
}

/// Keys of a tile that a panel of queries starting at `column` sees at all.
int64_t visible_keys(bool diagonal, int64_t column) { return diagonal ? std::min(tile, column + panel_width()) : tile; }

/// Turns scores [keys, panel] into e^(score - m) with the new row maxima m, and brings sums l and output o [D, panel] up to them.
void online_softmax(float* scores, int64_t keys, bool diagonal, int64_t column, float* m, float* l, float* o, int64_t D, bool first) {
  const int64_t panel = panel_width();
  for_panel([&](auto d, int64_t at) HWY_ATTR {
    auto largest = hn::LoadU(d, m + at);
    for (int64_t key = 0; key < keys; key++) {
      auto s = hn::LoadU(d, scores + key * panel + at);
      if (diagonal && key > column + at) {
        s = hn::IfThenElse(before(d, column + at, key), hn::Set(d, -INFINITY), s);
        hn::StoreU(s, d, scores + key * panel + at);
      }
      largest = hn::Max(largest, s);
    }
    const auto shrink = exp(d, hn::Sub(hn::LoadU(d, m + at), largest));
    auto sum = hn::Mul(hn::LoadU(d, l + at), shrink);
    for (int64_t key = 0; key < keys; key++) {
      const auto p = exp(d, hn::Sub(hn::LoadU(d, scores + key * panel + at), largest));
      hn::StoreU(p, d, scores + key * panel + at);
      sum = hn::Add(sum, p);
    }
    hn::StoreU(largest, d, m + at);
    hn::StoreU(sum, d, l + at);
    if (first) return;
    for (int64_t i = 0; i < D; i++) hn::StoreU(hn::Mul(hn::LoadU(d, o + i * panel + at), shrink), d, o + i * panel + at);
  });
}

/// y and lse of one tile of queries of head `head`.
void forward_tile(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  const auto [B, T, A, K, D] = heads.shape;
  const int64_t width = padded(D), panel = panel_width(), queries = tile_rows(T, query_tile), shared = head / (A / K);
  alignas(64) float key[tile * max_width], value[tile * max_width], q[tile * max_width], o[tile * max_width], scores[tile * tile];
  alignas(64) float m[tile], l[tile];
  std::fill_n(m, tile, -INFINITY);
  std::fill_n(l, tile, 0.0f);

  pack_tile(key, heads, heads.q, b, head, query_tile, score_scale(heads));
  transpose_panels(q, key, D);
  for (int64_t key_tile = 0; key_tile <= query_tile; key_tile++) {
    const bool diagonal = key_tile == query_tile;
    pack_tile(key, heads, heads.k, b, shared, key_tile);
    pack_tile(value, heads, heads.v, b, shared, key_tile);
    for (int64_t c = 0; c < queries; c += panel) {
      const int64_t keys = visible_keys(diagonal, c);
      multiply_tile<Left::RowMajor, Result::Overwrite>(keys, panel, D, key, width, q + c * D, panel, scores, panel);
      online_softmax(scores, keys, diagonal, c, m + c, l + c, o + c * D, D, key_tile == 0);
      if (key_tile == 0) {
        multiply_tile<Left::ColumnMajor, Result::Overwrite>(D, panel, keys, value, width, scores, panel, o + c * D, panel);
      } else {
        multiply_tile<Left::ColumnMajor, Result::Add>(D, panel, keys, value, width, scores, panel, o + c * D, panel);
      }
    }
  }

  float* lse = heads.statistics(heads.lse, b, head) + query_tile * tile;
  for (int64_t r = 0; r < queries; r++) {
    const float* column = o + (r - r % panel) * D + r % panel;
    const float factor = 1 / l[r];
    for (int64_t i = 0; i < D; i++) value[r * width + i] = column[i * panel] * factor;
    lse[r] = m[r] + std::log(l[r]);
  }
  unpack_tile(heads, heads.y, b, head, query_tile, value);
}

template <class T>
float dot(const T* a, const T* b, int64_t n) {
  return sum_of_terms(n, [=](auto d, int64_t i) HWY_ATTR { return hn::Mul(load(d, a + i), load(d, b + i)); });
}

/// delta[t] = dy[t] . y[t] for one tile of queries.
void delta_tile(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  const int64_t D = heads.shape.D, begin = query_tile * tile;
  float* delta = heads.statistics(heads.delta, b, head);
  with_storage(heads.dtype, [&]<class T>(T*) {
    const auto y = heads.rows<T>(heads.y, b, head), dy = heads.rows<T>(heads.dy, b, head);
    for (int64_t t = begin; t < begin + tile_rows(heads.shape.T, query_tile); t++) delta[t] = dot(y[t], dy[t], D);
  });
}

/// The queries' side of the backward: q and dy of one tile, as rows and transposed. Queries beyond T are zero and so are their gradients.
struct QueryTile {
  alignas(64) float q[tile * max_width], dy[tile * max_width];
  alignas(64) float q_panels[tile * max_width], dy_panels[tile * max_width];
  alignas(64) float lse[tile], delta[tile];

  void load(const AttentionHeads& heads, int64_t b, int64_t head, int64_t index) {
    const int64_t D = heads.shape.D, begin = index * tile, count = tile_rows(heads.shape.T, index);
    pack_tile(q, heads, heads.q, b, head, index, score_scale(heads));
    pack_tile(dy, heads, heads.dy, b, head, index);
    transpose_panels(q_panels, q, D);
    transpose_panels(dy_panels, dy, D);
    std::fill(std::copy_n(heads.statistics(heads.lse, b, head) + begin, count, lse), lse + tile, 0.0f);
    std::fill(std::copy_n(heads.statistics(heads.delta, b, head) + begin, count, delta), delta + tile, 0.0f);
  }
};

struct KeyTile {
  alignas(64) float k[tile * max_width], v[tile * max_width];

  void load(const AttentionHeads& heads, int64_t b, int64_t head, int64_t index) {
    pack_tile(k, heads, heads.k, b, head, index);
    pack_tile(v, heads, heads.v, b, head, index);
  }
};

/// p and ds = p (dp - delta) of one pair of tiles, a row for each key and a column for each query; 0 where the key comes after the query.
struct ScoreTile {
  alignas(64) float p[tile * tile], ds[tile * tile];

  void compute(const QueryTile& queries, const KeyTile& keys, int64_t D, bool diagonal) {
    const int64_t panel = panel_width(), width = padded(D);
    for (int64_t c = 0; c < tile; c += panel) {
      const int64_t visible = visible_keys(diagonal, c);
      multiply_tile<Left::RowMajor, Result::Overwrite>(visible, panel, D, keys.k, width, queries.q_panels + c * D, panel, p + c, tile);
      multiply_tile<Left::RowMajor, Result::Overwrite>(visible, panel, D, keys.v, width, queries.dy_panels + c * D, panel, ds + c, tile);
      for_panel([&](auto d, int64_t at) HWY_ATTR {
        const int64_t column = c + at;
        const auto lse = hn::LoadU(d, queries.lse + column), delta = hn::LoadU(d, queries.delta + column);
        for (int64_t key = 0; key < visible; key++) {
          float *p_at = p + key * tile + column, *ds_at = ds + key * tile + column;
          auto weight = exp(d, hn::Sub(hn::LoadU(d, p_at), lse));
          if (diagonal && key > column) weight = hn::IfThenZeroElse(before(d, column, key), weight);
          hn::StoreU(weight, d, p_at);
          hn::StoreU(hn::Mul(weight, hn::Sub(hn::LoadU(d, ds_at), delta)), d, ds_at);
        }
        for (int64_t key = visible; key < tile; key++) {
          hn::StoreU(hn::Zero(d), d, p + key * tile + column);
          hn::StoreU(hn::Zero(d), d, ds + key * tile + column);
        }
      });
    }
  }
};

/// Rows of a tile that share the bounds of a triangular product.
constexpr int64_t strip = 16;

/// sums [tile, padded(D)] += scores-weighted sum of the queries' rows: dv from p and dy, dk from ds and q.
void add_to_keys(float* sums, const float* scores, const float* rows, int64_t D, bool diagonal) {
  const int64_t width = padded(D);
  for (int64_t s = 0; s < tile; s += strip) {
    const int64_t query = diagonal ? s : 0;  // the first that sees a key of this strip
    multiply_tile<Left::RowMajor, Result::Add>(strip, width, tile - query, scores + s * tile + query, tile, rows + query * width, width,
                                               sums + s * width, width);
  }
}

/// dq [tile, padded(D)] += ds^T-weighted sum of the keys' rows.
void add_to_queries(float* dq, const float* ds, const float* keys, int64_t D, bool diagonal) {
  const int64_t width = padded(D);
  for (int64_t s = 0; s < tile; s += strip) {
    const int64_t visible = diagonal ? s + strip : tile;
    multiply_tile<Left::ColumnMajor, Result::Add>(strip, width, visible, ds + s, tile, keys, width, dq + s * width, width);
  }
}

/// All gradients of key/value head `shared` and of the query heads that share it: five products for each pair of tiles.
/// sums: room for the gradients of all keys, 2 T' padded(D) with T' = T rounded up to whole tiles.
void backward_head(const AttentionHeads& heads, int64_t b, int64_t shared, float* sums) {
  const auto [B, T, A, K, D] = heads.shape;
  const int64_t tiles = (T + tile - 1) / tile, tile_floats = tile * padded(D);
  float *dk = sums, *dv = sums + tiles * tile_floats;
  std::fill_n(sums, 2 * tiles * tile_floats, 0.0f);
  QueryTile queries;
  KeyTile keys;
  ScoreTile scores;
  alignas(64) float dq[tile * max_width];
  for (int64_t head = shared * (A / K); head < (shared + 1) * (A / K); head++) {
    for (int64_t query_tile = 0; query_tile < tiles; query_tile++) {
      queries.load(heads, b, head, query_tile);
      std::fill_n(dq, tile_floats, 0.0f);
      for (int64_t key_tile = 0; key_tile <= query_tile; key_tile++) {
        const bool diagonal = key_tile == query_tile;
        keys.load(heads, b, shared, key_tile);
        scores.compute(queries, keys, D, diagonal);
        add_to_keys(dv + key_tile * tile_floats, scores.p, queries.dy, D, diagonal);
        add_to_keys(dk + key_tile * tile_floats, scores.ds, queries.q, D, diagonal);
        add_to_queries(dq, scores.ds, keys.k, D, diagonal);
      }
      unpack_tile(heads, heads.dq, b, head, query_tile, dq, score_scale(heads));
    }
  }
  for (int64_t key_tile = 0; key_tile < tiles; key_tile++) {
    unpack_tile(heads, heads.dk, b, shared, key_tile, dk + key_tile * tile_floats);
    unpack_tile(heads, heads.dv, b, shared, key_tile, dv + key_tile * tile_floats);
  }
}

/// dk and dv of one tile of keys, added in the order of backward_head.
void backward_keys(const AttentionHeads& heads, int64_t b, int64_t shared, int64_t key_tile) {
  const auto [B, T, A, K, D] = heads.shape;
  QueryTile queries;
  KeyTile keys;
  ScoreTile scores;
  alignas(64) float dk[tile * max_width], dv[tile * max_width];
  std::fill_n(dk, tile * padded(D), 0.0f);
  std::fill_n(dv, tile * padded(D), 0.0f);
  keys.load(heads, b, shared, key_tile);
  for (int64_t head = shared * (A / K); head < (shared + 1) * (A / K); head++) {
    for (int64_t query_tile = key_tile; query_tile * tile < T; query_tile++) {
      const bool diagonal = key_tile == query_tile;
      queries.load(heads, b, head, query_tile);
      scores.compute(queries, keys, D, diagonal);
      add_to_keys(dv, scores.p, queries.dy, D, diagonal);
      add_to_keys(dk, scores.ds, queries.q, D, diagonal);
    }
  }
  unpack_tile(heads, heads.dk, b, shared, key_tile, dk);
  unpack_tile(heads, heads.dv, b, shared, key_tile, dv);
}

/// dq of one tile of queries, added in the order of backward_head.
void backward_queries(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  const auto [B, T, A, K, D] = heads.shape;
  QueryTile queries;
  KeyTile keys;
  ScoreTile scores;
  alignas(64) float dq[tile * max_width];
  queries.load(heads, b, head, query_tile);
  std::fill_n(dq, tile * padded(D), 0.0f);
  for (int64_t key_tile = 0; key_tile <= query_tile; key_tile++) {
    keys.load(heads, b, head / (A / K), key_tile);
    scores.compute(queries, keys, D, key_tile == query_tile);
    add_to_queries(dq, scores.ds, keys.k, D, key_tile == query_tile);
  }
  unpack_tile(heads, heads.dq, b, head, query_tile, dq, score_scale(heads));
}

/// Floats that backward_head needs.
int64_t key_gradient_floats(const AttentionShape& shape) { return 2 * ((shape.T + tile - 1) / tile) * tile * padded(shape.D); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(forward_tile);
HWY_EXPORT(delta_tile);
HWY_EXPORT(backward_head);
HWY_EXPORT(backward_keys);
HWY_EXPORT(backward_queries);

namespace {

AttentionHeads::Matrix matrix(const Tensor& tensor) { return {tensor.data, tensor.row_stride()}; }

class CpuAttentionOps : public AttentionOps {
 public:
  CpuAttentionOps(int threads, const Tensor& workspace) : threads_(threads), workspace_(workspace) {}

 private:
  void do_attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream&) override {
    AttentionHeads heads{
        .shape = shape, .dtype = q.dtype, .q = matrix(q), .k = matrix(k), .v = matrix(v), .y = matrix(y), .lse = lse.as<float>()};
    for_each_tile(shape, shape.A, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(forward_tile)(heads, b, head, i); });
  }

  void do_attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor delta, Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse,
                             AttentionShape shape, Stream&) override {
    AttentionHeads heads{.shape = shape,
                         .dtype = q.dtype,
                         .q = matrix(q),
                         .k = matrix(k),
                         .v = matrix(v),
                         .y = matrix(y),
                         .dy = matrix(dy),
                         .dq = matrix(dq),
                         .dk = matrix(dk),
                         .dv = matrix(dv),
                         .lse = lse.as<float>(),
                         .delta = delta.as<float>()};
    for_each_tile(shape, shape.A, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(delta_tile)(heads, b, head, i); });
    if (whole_heads_end_first(shape)) {
      const int64_t tasks = shape.B * shape.K;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
      for (int64_t task = 0; task < tasks; task++) {
        float* sums = workspace_.part(omp_get_thread_num(), threads_).data();
        HWY_DYNAMIC_DISPATCH(backward_head)(heads, task / shape.K, task % shape.K, sums);
      }
    } else {
      for_each_tile(shape, shape.K, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(backward_keys)(heads, b, head, i); });
      for_each_tile(shape, shape.A, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(backward_queries)(heads, b, head, i); });
    }
  }

  /// Five products for each pair of tiles in few large tasks, or seven in many small ones: the same bits, so the faster. The first needs
  /// room for the gradients of a whole head.
  bool whole_heads_end_first(const AttentionShape& shape) const {
    const auto room = static_cast<int64_t>(workspace_.part(0, threads_).size());
    if (HWY_STATIC_DISPATCH(key_gradient_floats)(shape) > room) return false;
    const int64_t tasks = shape.B * shape.K, rounds = (tasks + threads_ - 1) / threads_;
    return 5 * rounds * threads_ <= 7 * tasks;
  }

  template <class Task>
  void for_each_tile(const AttentionShape& shape, int64_t heads, Task task) const {
    constexpr int64_t tile = HWY_STATIC_DISPATCH(tile);  // the same for every instruction set
    const int64_t tiles = (shape.T + tile - 1) / tile, rows = shape.B * heads;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (int64_t i = 0; i < rows * tiles; i++) task(i / tiles / heads, i / tiles % heads, i % tiles);
  }

  int threads_;
  Workspace workspace_;
};

}  // namespace

std::unique_ptr<AttentionOps> make_cpu_attention_ops(int threads, const Tensor& workspace) {
  return std::make_unique<CpuAttentionOps>(threads, workspace);
}

}  // namespace tessera
#endif
