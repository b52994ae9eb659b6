// Causal attention in tiles that stay in the nearest caches: 64 queries meet 64 keys at a time.
//
// Scores are held transposed, a row for each key and a lane for each query: then the maxima and sums of the softmax need no step across
// lanes. Sums for queries (y, dq) are held as columns and transposed once.
// The tiles and their products are fp32 or bf16 (attention_tiles-inl.h); softmax, statistics and all sums are fp32, and gradients are
// rounded once. Every sum has an order of its own, so the bits do not depend on the number of threads.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/cpu/attention_heads.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/attention_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

/// rows [0, count) = factor * from [count, width], rounded to nearest.
template <class T>
void unpack(T* rows, int64_t stride, const float* from, int64_t width, int64_t count, int64_t D, float factor) {
  for (int64_t r = 0; r < count; r++, rows += stride, from += width) {
    for_each_vector(D, [=](auto d, int64_t i) HWY_ATTR { store(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, factor)), d, rows + i); });
  }
}

/// Tile `index` of one head's rows = factor * from [tile, width].
void unpack_tile(const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head, int64_t index,
                 const float* from, int64_t width, float factor = 1) {
  with_storage(heads.dtype, [&]<class T>(T*) {
    const auto rows = heads.rows<T>(matrix, b, head);
    unpack(rows[index * tile], rows.stride, from, width, tile_rows(heads.shape.T, index), heads.shape.D, factor);
  });
}

/// The same from columns [D, tile].
void unpack_columns(const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head, int64_t index,
                    const float* columns, float factor = 1) {
  alignas(64) float rows[tile * max_width];
  const int64_t width = rounded_up(heads.shape.D, 16);
  transpose_words(rows, width, columns, tile, width, tile);
  unpack_tile(heads, matrix, b, head, index, rows, width, factor);
}

/// Scores are divided by sqrt(D), and so is their gradient.
float score_scale(const AttentionHeads& heads) { return 1 / std::sqrt(static_cast<float>(heads.shape.D)); }

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

/// What the forward knows of a tile's queries: the largest scaled score, the sum of e^(score - largest), and the weighted sum of values.
struct Softmax {
  alignas(64) float largest[tile], sum[tile], o[max_width * tile];  // o [D, tile]
};

/// Turns the scores of a panel of queries into e^(scale * score - largest) with the new largest, and brings sums and o up to it.
template <class Pairs>
void online_softmax(Softmax& softmax, Pairs& pairs, float scale, int64_t keys, bool diagonal, int64_t column, int64_t D, bool first) {
  for_panel([&](auto d, int64_t at) HWY_ATTR {
    const int64_t query = column + at;
    const auto factor = hn::Set(d, scale);
    float* scores = pairs.values + query;
    auto even = hn::Set(d, -INFINITY), odd = even;
    for (int64_t key = 0; key < keys; key += 2) {
      auto s0 = hn::LoadU(d, scores + key * tile), s1 = hn::LoadU(d, scores + (key + 1) * tile);
      if (diagonal && key + 1 > query) {
        s0 = hn::IfThenElse(before(d, query, key), hn::Set(d, -INFINITY), s0);
        s1 = hn::IfThenElse(before(d, query, key + 1), hn::Set(d, -INFINITY), s1);
        hn::StoreU(s0, d, scores + key * tile);
        hn::StoreU(s1, d, scores + (key + 1) * tile);
      }
      even = hn::Max(even, s0);
      odd = hn::Max(odd, s1);
    }
    const auto before_it = hn::LoadU(d, softmax.largest + query);
    const auto largest = hn::Max(before_it, hn::Mul(factor, hn::Max(even, odd)));
    const auto shrink = exp_up_to_88(d, hn::Sub(before_it, largest));
    auto sum = hn::Mul(hn::LoadU(d, softmax.sum + query), shrink), odd_sum = hn::Zero(d);
    for (int64_t key = 0; key < keys; key += 2) {
      const auto p0 = exp_up_to_88(d, hn::MulSub(hn::LoadU(d, scores + key * tile), factor, largest));
      const auto p1 = exp_up_to_88(d, hn::MulSub(hn::LoadU(d, scores + (key + 1) * tile), factor, largest));
      pairs.template set_weights<Over::Keys>(d, key, query, p0, p1);
      sum = hn::Add(sum, p0);
      odd_sum = hn::Add(odd_sum, p1);
    }
    hn::StoreU(largest, d, softmax.largest + query);
    hn::StoreU(hn::Add(sum, odd_sum), d, softmax.sum + query);
    if (first || hn::AllTrue(d, hn::Eq(before_it, largest))) return;
    float* o = softmax.o + query;
    for (int64_t i = 0; i < D; i++) hn::StoreU(hn::Mul(hn::LoadU(d, o + i * tile), shrink), d, o + i * tile);
  });
}

/// y and lse of one tile of queries from what is summed.
void finish_forward(const AttentionHeads& heads, Softmax& softmax, int64_t b, int64_t head, int64_t query_tile) {
  const int64_t D = heads.shape.D, queries = tile_rows(heads.shape.T, query_tile);
  float* lse = heads.statistics(heads.lse, b, head) + query_tile * tile;
  for (int64_t r = 0; r < queries; r++) {
    lse[r] = softmax.largest[r] + std::log(softmax.sum[r]);
    softmax.sum[r] = 1 / softmax.sum[r];
  }
  for (int64_t i = 0; i < D; i++) {
    float* o = softmax.o + i * tile;
    for_each_vector(queries,
                    [&](auto d, int64_t r) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, o + r), hn::LoadU(d, softmax.sum + r)), d, o + r); });
  }
  unpack_columns(heads, heads.y, b, head, query_tile, softmax.o);
}

/// A tile of keys and one of values.
template <class Tiles>
struct KeySide {
  /// In memory of key_side_floats(D).
  KeySide(float* memory, int64_t D) : k(memory, Tiles::padded(D)), v(memory + tile * Tiles::padded(D), Tiles::padded(D)) {}
  typename Tiles::Keys k, v;
};

template <class Tiles>
int64_t key_side_floats(int64_t D) {
  return 2 * tile * Tiles::padded(D);
}

template <class Tiles>
void load_for_forward(const KeySide<Tiles>& keys, const Tiles& tiles, const AttentionHeads& heads, int64_t b, int64_t head, int64_t index) {
  tiles.template load_keys<Use::Scores>(keys.k, heads, heads.k, b, head, index);
  tiles.template load_keys<Use::Sums>(keys.v, heads, heads.v, b, head, index);
}

template <class Tiles>
void load_for_backward(const KeySide<Tiles>& keys, const Tiles& tiles, const AttentionHeads& heads, int64_t b, int64_t head,
                       int64_t index) {
  tiles.template load_keys<Use::Both>(keys.k, heads, heads.k, b, head, index);
  tiles.template load_keys<Use::Scores>(keys.v, heads, heads.v, b, head, index);
}

/// y and lse of one tile of queries of head `head`; keys_of(index) is a KeySide.
template <class Tiles, class KeysOf>
void forward_on(const Tiles& tiles, const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile, KeysOf keys_of) {
  const int64_t D = heads.shape.D, queries = tile_rows(heads.shape.T, query_tile);
  typename Tiles::Queries q;
  typename Tiles::Pairs pairs;
  Softmax softmax;
  std::fill_n(softmax.largest, tile, -INFINITY);
  std::fill_n(softmax.sum, tile, 0.0f);

  tiles.template load_queries<Use::Scores>(q, heads, heads.q, b, head, query_tile);
  for (int64_t key_tile = 0; key_tile <= query_tile; key_tile++) {
    const bool diagonal = key_tile == query_tile, first = key_tile == 0;
    const KeySide<Tiles> keys = keys_of(key_tile);
    for (int64_t c = 0; c < queries; c += panel_width()) {
      const int64_t visible = visible_keys(diagonal, c);
      tiles.multiply_scores(pairs, keys.k, q, c, visible);
      online_softmax(softmax, pairs, score_scale(heads), visible, diagonal, c, D, first);
      tiles.sum_over_keys(softmax.o, keys.v, pairs, c, visible, !first);
    }
  }
  finish_forward(heads, softmax, b, head, query_tile);
}

template <class Tiles>
void forward_tile_on(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  const auto [B, T, A, K, D] = heads.shape;
  const int64_t shared = head / (A / K);
  const Tiles tiles(heads);
  alignas(64) float memory[2 * tile * max_width];
  const KeySide<Tiles> keys(memory, D);
  forward_on(tiles, heads, b, head, query_tile, [&](int64_t key_tile) {
    load_for_forward(keys, tiles, heads, b, shared, key_tile);
    return keys;
  });
}

/// y and lse of the query heads that share key/value head `shared`, whose tiles are loaded once. memory: key_side_floats(D) for each tile.
template <class Tiles>
void forward_head_on(const AttentionHeads& heads, int64_t b, int64_t shared, float* memory) {
  const auto [B, T, A, K, D] = heads.shape;
  const int64_t each = key_side_floats<Tiles>(D);
  const Tiles tiles(heads);
  const auto keys_of = [&](int64_t key_tile) { return KeySide<Tiles>(memory + key_tile * each, heads.shape.D); };
  for (int64_t key_tile = 0; key_tile * tile < T; key_tile++) load_for_forward(keys_of(key_tile), tiles, heads, b, shared, key_tile);
  for (int64_t head = shared * (A / K); head < (shared + 1) * (A / K); head++) {
    for (int64_t query_tile = 0; query_tile * tile < T; query_tile++) forward_on(tiles, heads, b, head, query_tile, keys_of);
  }
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

/// The queries' side of the backward. Queries beyond T are zero and so are their gradients.
template <class Tiles>
struct QuerySide {
  typename Tiles::Queries q, dy;
  alignas(64) float lse[tile], delta[tile];

  void load(const Tiles& tiles, const AttentionHeads& heads, int64_t b, int64_t head, int64_t index) {
    const int64_t begin = index * tile, count = tile_rows(heads.shape.T, index);
    tiles.template load_queries<Use::Both>(q, heads, heads.q, b, head, index);
    tiles.template load_queries<Use::Both>(dy, heads, heads.dy, b, head, index);
    std::fill(std::copy_n(heads.statistics(heads.lse, b, head) + begin, count, lse), lse + tile, 0.0f);
    std::fill(std::copy_n(heads.statistics(heads.delta, b, head) + begin, count, delta), delta + tile, 0.0f);
  }
};

/// p and ds = p (dp - delta) of one pair of tiles; 0 where the key comes after the query.
template <class Tiles>
struct PairSide {
  typename Tiles::Pairs p, ds;

  void compute(const Tiles& tiles, const QuerySide<Tiles>& queries, const KeySide<Tiles>& keys, float scale, bool diagonal) {
    for (int64_t c = 0; c < tile; c += panel_width()) {
      const int64_t visible = visible_keys(diagonal, c);
      tiles.multiply_scores(p, keys.k, queries.q, c, visible);
      tiles.multiply_scores(ds, keys.v, queries.dy, c, visible);
      for_panel([&](auto d, int64_t at) HWY_ATTR { weigh(d, queries, scale, c + at, visible, diagonal); });
      for (int64_t key = visible; key < rounded_up(visible, Tiles::strip); key++) {
        p.clear_weights(key, c, panel_width());
        ds.clear_weights(key, c, panel_width());
      }
    }
  }

 private:
  /// Of the queries of a vector from `column` on.
  template <class D>
  HWY_INLINE void weigh(D d, const QuerySide<Tiles>& queries, float scale, int64_t column, int64_t visible, bool diagonal) {
    const auto factor = hn::Set(d, scale), lse = hn::LoadU(d, queries.lse + column), delta = hn::LoadU(d, queries.delta + column);
    const float *score = p.values + column, *dp = ds.values + column;
    for (int64_t key = 0; key < visible; key += 2) {
      auto p0 = exp_up_to_88(d, hn::MulSub(hn::LoadU(d, score + key * tile), factor, lse));
      auto p1 = exp_up_to_88(d, hn::MulSub(hn::LoadU(d, score + (key + 1) * tile), factor, lse));
      if (diagonal && key + 1 > column) {
        p0 = hn::IfThenZeroElse(before(d, column, key), p0);
        p1 = hn::IfThenZeroElse(before(d, column, key + 1), p1);
      }
      const auto ds0 = hn::Mul(p0, hn::Sub(hn::LoadU(d, dp + key * tile), delta));
      const auto ds1 = hn::Mul(p1, hn::Sub(hn::LoadU(d, dp + (key + 1) * tile), delta));
      p.template set_weights<Over::Queries>(d, key, column, p0, p1);
      ds.template set_weights<Over::Both>(d, key, column, ds0, ds1);
    }
  }
};

/// sums [tile, width] += W Y: dv from p and dy, dk from ds and q.
template <class Tiles>
void add_to_keys(const Tiles& tiles, float* sums, const typename Tiles::Pairs& w, const typename Tiles::Queries& y, bool diagonal) {
  for (int64_t key = 0; key < tile; key += Tiles::strip) {
    tiles.sum_over_queries(sums, w, y, key, diagonal ? key : 0);  // a query before the strip's first key sees none of it
  }
}

/// dq [D, tile] += k^T ds.
template <class Tiles>
void add_to_queries(const Tiles& tiles, float* dq, const KeySide<Tiles>& keys, const PairSide<Tiles>& pairs, bool diagonal, bool add) {
  for (int64_t c = 0; c < tile; c += panel_width()) tiles.sum_over_keys(dq, keys.k, pairs.ds, c, visible_keys(diagonal, c), add);
}

/// All gradients of key/value head `shared` and of the query heads that share it: five products for each pair of tiles.
/// memory: key_side_floats(D) for each tile, twice: for the tiles, and for their gradients.
template <class Tiles>
void backward_head_on(const AttentionHeads& heads, int64_t b, int64_t shared, float* memory) {
  const auto [B, T, A, K, D] = heads.shape;
  const int64_t count = (T + tile - 1) / tile, width = Tiles::padded(D), tile_floats = tile * width, each = key_side_floats<Tiles>(D);
  const float scale = score_scale(heads);
  const Tiles tiles(heads);
  const auto keys_of = [&](int64_t key_tile) { return KeySide<Tiles>(memory + key_tile * each, heads.shape.D); };
  for (int64_t key_tile = 0; key_tile < count; key_tile++) load_for_backward(keys_of(key_tile), tiles, heads, b, shared, key_tile);
  float *dk = memory + count * each, *dv = dk + count * tile_floats;
  std::fill_n(dk, 2 * count * tile_floats, 0.0f);
  QuerySide<Tiles> queries;
  PairSide<Tiles> pairs;
  alignas(64) float dq[max_width * tile];
  for (int64_t head = shared * (A / K); head < (shared + 1) * (A / K); head++) {
    for (int64_t query_tile = 0; query_tile < count; query_tile++) {
      queries.load(tiles, heads, b, head, query_tile);
      for (int64_t key_tile = 0; key_tile <= query_tile; key_tile++) {
        const bool diagonal = key_tile == query_tile;
        const KeySide<Tiles> keys = keys_of(key_tile);
        pairs.compute(tiles, queries, keys, scale, diagonal);
        add_to_keys(tiles, dv + key_tile * tile_floats, pairs.p, queries.dy, diagonal);
        add_to_keys(tiles, dk + key_tile * tile_floats, pairs.ds, queries.q, diagonal);
        add_to_queries(tiles, dq, keys, pairs, diagonal, key_tile > 0);
      }
      unpack_columns(heads, heads.dq, b, head, query_tile, dq, scale);
    }
  }
  for (int64_t key_tile = 0; key_tile < count; key_tile++) {
    unpack_tile(heads, heads.dk, b, shared, key_tile, dk + key_tile * tile_floats, width, scale);
    unpack_tile(heads, heads.dv, b, shared, key_tile, dv + key_tile * tile_floats, width);
  }
}

/// dk and dv of one tile of keys, added in the order of backward_head_on.
template <class Tiles>
void backward_keys_on(const AttentionHeads& heads, int64_t b, int64_t shared, int64_t key_tile) {
  const auto [B, T, A, K, D] = heads.shape;
  const int64_t width = Tiles::padded(D);
  const float scale = score_scale(heads);
  const Tiles tiles(heads);
  QuerySide<Tiles> queries;
  alignas(64) float memory[2 * tile * max_width];
  const KeySide<Tiles> keys(memory, D);
  PairSide<Tiles> pairs;
  alignas(64) float dk[tile * max_width], dv[tile * max_width];
  std::fill_n(dk, tile * width, 0.0f);
  std::fill_n(dv, tile * width, 0.0f);
  load_for_backward(keys, tiles, heads, b, shared, key_tile);
  for (int64_t head = shared * (A / K); head < (shared + 1) * (A / K); head++) {
    for (int64_t query_tile = key_tile; query_tile * tile < T; query_tile++) {
      const bool diagonal = key_tile == query_tile;
      queries.load(tiles, heads, b, head, query_tile);
      pairs.compute(tiles, queries, keys, scale, diagonal);
      add_to_keys(tiles, dv, pairs.p, queries.dy, diagonal);
      add_to_keys(tiles, dk, pairs.ds, queries.q, diagonal);
    }
  }
  unpack_tile(heads, heads.dk, b, shared, key_tile, dk, width, scale);
  unpack_tile(heads, heads.dv, b, shared, key_tile, dv, width);
}

/// dq of one tile of queries, added in the order of backward_head_on.
template <class Tiles>
void backward_queries_on(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  const auto [B, T, A, K, D] = heads.shape;
  const float scale = score_scale(heads);
  const Tiles tiles(heads);
  QuerySide<Tiles> queries;
  alignas(64) float memory[2 * tile * max_width];
  const KeySide<Tiles> keys(memory, D);
  PairSide<Tiles> pairs;
  alignas(64) float dq[max_width * tile];
  queries.load(tiles, heads, b, head, query_tile);
  for (int64_t key_tile = 0; key_tile <= query_tile; key_tile++) {
    const bool diagonal = key_tile == query_tile;
    load_for_backward(keys, tiles, heads, b, head / (A / K), key_tile);
    pairs.compute(tiles, queries, keys, scale, diagonal);
    add_to_queries(tiles, dq, keys, pairs, diagonal, key_tile > 0);
  }
  unpack_columns(heads, heads.dq, b, head, query_tile, dq, scale);
}

/// body(tiles) with a null pointer of the tiles that the heads' type asks for.
template <class Body>
void with_tiles([[maybe_unused]] const AttentionHeads& heads, Body body) {
#if HWY_TARGET == HWY_AVX3
  if (heads.dtype == DType::bf16 && heads.bf16_kernel != Bf16Kernel::None) return body(static_cast<Bf16Tiles*>(nullptr));
#endif
  body(static_cast<Fp32Tiles*>(nullptr));
}

void forward_tile(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  with_tiles(heads, [&]<class Tiles>(Tiles*) { forward_tile_on<Tiles>(heads, b, head, query_tile); });
}
void forward_head(const AttentionHeads& heads, int64_t b, int64_t shared, float* memory) {
  with_tiles(heads, [&]<class Tiles>(Tiles*) { forward_head_on<Tiles>(heads, b, shared, memory); });
}
void backward_head(const AttentionHeads& heads, int64_t b, int64_t shared, float* memory) {
  with_tiles(heads, [&]<class Tiles>(Tiles*) { backward_head_on<Tiles>(heads, b, shared, memory); });
}
void backward_keys(const AttentionHeads& heads, int64_t b, int64_t shared, int64_t key_tile) {
  with_tiles(heads, [&]<class Tiles>(Tiles*) { backward_keys_on<Tiles>(heads, b, shared, key_tile); });
}
void backward_queries(const AttentionHeads& heads, int64_t b, int64_t head, int64_t query_tile) {
  with_tiles(heads, [&]<class Tiles>(Tiles*) { backward_queries_on<Tiles>(heads, b, head, query_tile); });
}

/// Floats that forward_head and backward_head need at most.
int64_t head_floats(const AttentionShape& shape) { return 4 * rounded_up(shape.T, tile) * rounded_up(shape.D, 32); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(forward_tile);
HWY_EXPORT(forward_head);
HWY_EXPORT(delta_tile);
HWY_EXPORT(backward_head);
HWY_EXPORT(backward_keys);
HWY_EXPORT(backward_queries);

namespace {

AttentionHeads::Matrix matrix(const Tensor& tensor) { return {tensor.data, tensor.row_stride()}; }

class CpuAttentionOps : public AttentionOps {
 public:
  CpuAttentionOps(int threads, const Tensor& workspace) : threads_(threads), workspace_(workspace) {}

  std::vector<std::string> candidates(OpKind, const ShapeKey& shape) const override {
    if (shape.dtype != DType::bf16) return {};
    std::vector<std::string> names;
    for (const Bf16Kernel kernel : bf16_kernel_candidates()) names.emplace_back(name_of(kernel));
    return names;
  }

  std::string choice(OpKind kind, const ShapeKey& shape) const override {
    return shape.dtype == DType::bf16 ? std::string(name_of(kernel_for(kind, shape))) : std::string();
  }

  void choose(OpKind kind, const ShapeKey& shape, const std::string& candidate) override {
    choices_[{kind, shape}] = bf16_kernel_named(candidate);
  }

 private:
  void do_attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream&) override {
    AttentionHeads heads{.shape = shape,
                         .dtype = q.dtype,
                         .bf16_kernel = kernel_for(OpKind::AttentionForward, attention_shape(shape, q.dtype)),
                         .q = matrix(q),
                         .k = matrix(k),
                         .v = matrix(v),
                         .y = matrix(y),
                         .lse = lse.as<float>()};
    if (whole_heads_end_first(shape, 10, 11)) {
      for_each_head(shape, [&](int64_t b, int64_t shared, float* memory) { HWY_DYNAMIC_DISPATCH(forward_head)(heads, b, shared, memory); });
    } else {
      for_each_tile(shape, shape.A, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(forward_tile)(heads, b, head, i); });
    }
  }

  void do_attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor delta, Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse,
                             AttentionShape shape, Stream&) override {
    AttentionHeads heads{.shape = shape,
                         .dtype = q.dtype,
                         .bf16_kernel = kernel_for(OpKind::AttentionBackward, attention_shape(shape, q.dtype)),
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
    if (whole_heads_end_first(shape, 5, 7)) {
      for_each_head(shape, [&](int64_t b, int64_t shared, float* memory) {
        HWY_DYNAMIC_DISPATCH(backward_head)(heads, b, shared, memory);
      });
    } else {
      for_each_tile(shape, shape.K, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(backward_keys)(heads, b, head, i); });
      for_each_tile(shape, shape.A, [&](int64_t b, int64_t head, int64_t i) { HWY_DYNAMIC_DISPATCH(backward_queries)(heads, b, head, i); });
    }
  }

  /// Whole heads are few large tasks, which load their keys once and in the backward take five products for each pair of tiles; tiles are
  /// many small ones, which load keys again and take seven. The same bits, so the faster: `whole` and `tiled` are what a pair costs in
  /// each. Heads need room for all their keys.
  bool whole_heads_end_first(const AttentionShape& shape, int64_t whole, int64_t tiled) const {
    const auto room = static_cast<int64_t>(workspace_.part(0, threads_).size());
    if (HWY_STATIC_DISPATCH(head_floats)(shape) > room) return false;
    const int64_t tasks = shape.B * shape.K, rounds = (tasks + threads_ - 1) / threads_;
    return whole * rounds * threads_ <= tiled * tasks;
  }

  template <class Task>
  void for_each_head(const AttentionShape& shape, Task task) const {
    const int64_t tasks = shape.B * shape.K;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (int64_t i = 0; i < tasks; i++) task(i / shape.K, i % shape.K, workspace_.part(omp_get_thread_num(), threads_).data());
  }

  template <class Task>
  void for_each_tile(const AttentionShape& shape, int64_t heads, Task task) const {
    constexpr int64_t tile = HWY_STATIC_DISPATCH(tile);  // the same for every instruction set
    const int64_t tiles = (shape.T + tile - 1) / tile, rows = shape.B * heads;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (int64_t i = 0; i < rows * tiles; i++) task(i / tiles / heads, i / tiles % heads, i % tiles);
  }

  Bf16Kernel kernel_for(OpKind kind, const ShapeKey& shape) const {
    const auto chosen = choices_.find({kind, shape});
    return chosen == choices_.end() ? bf16_kernel_candidates().front() : chosen->second;
  }

  int threads_;
  Workspace workspace_;
  std::map<std::pair<OpKind, ShapeKey>, Bf16Kernel> choices_;  // where the rule was not taken
};

}  // namespace

std::unique_ptr<AttentionOps> make_cpu_attention_ops(int threads, const Tensor& workspace) {
  return std::make_unique<CpuAttentionOps>(threads, workspace);
}

}  // namespace tessera
#endif
