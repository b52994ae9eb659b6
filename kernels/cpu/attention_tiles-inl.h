// The tiles that attention is made of, and their products: as fp32, and as bf16 where the machine multiplies that.
// Both kinds have the same members; attention.cpp is written once for them. X stands for k or v, Y for q or dy, W for weights of pairs.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_ATTENTION_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_ATTENTION_TILES_INL_H_
#undef TESSERA_KERNELS_CPU_ATTENTION_TILES_INL_H_
#else
#define TESSERA_KERNELS_CPU_ATTENTION_TILES_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/attention_heads.h"
#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/tile_matmul-inl.h"
#include "kernels/cpu/word_transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

constexpr int64_t tile = 64;        // queries or keys
constexpr int64_t max_width = 256;  // of a head, as attention_ops.cpp checks
using Floats = hn::ScalableTag<float>;

/// Queries are worked on in panels of two vectors.
HWY_INLINE int64_t panel_width() { return 2 * static_cast<int64_t>(hn::Lanes(Floats())); }

HWY_INLINE int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

HWY_INLINE int64_t tile_rows(int64_t T, int64_t index) { return std::min(tile, T - index * tile); }

/// Rows of a head lie too far apart for the processor to expect the next ones.
constexpr int64_t rows_ahead = 16;
template <class T>
HWY_INLINE void fetch_row(const T* row, int64_t n) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += line) hwy::Prefetch(row + i);
}

/// What a tile is loaded for, so that nothing is prepared in vain: products that give scores, sums over its rows, or both.
enum class Use { Scores, Sums, Both };
/// What weights are summed over.
enum class Over { Keys, Queries, Both };

/// Products in fp32, whatever the matrices are stored in: conversion is part of the packing.
class Fp32Tiles {
 public:
  explicit Fp32Tiles(const AttentionHeads& heads) : D_(heads.shape.D), width_(padded(D_)) {}

  /// A head's width rounded up to whole vectors of every instruction set; what is added is zero.
  static int64_t padded(int64_t D) { return rounded_up(D, 16); }
  /// Keys that share the bounds of a triangular product.
  static constexpr int64_t strip = 16;

  /// A tile X of keys or values in memory that others own: `tile` rows of `width` floats.
  struct Keys {
    Keys(float* memory, int64_t) : rows(memory) {}
    float* rows;  // [tile, width]
  };
  /// A tile Y of queries or their gradients.
  struct Queries {
    alignas(64) float rows[tile * max_width], panels[tile * max_width];  // [tile, width], [width, panel_width()] for each panel
  };
  /// A row for each key and a column for each query: scores, and the weights that take their place.
  struct Pairs {
    alignas(64) float values[tile * tile];

    /// Weights of keys `key` and `key` + 1, the queries of a vector from `column` on.
    template <Over over, class D>
    HWY_INLINE void set_weights(D d, int64_t key, int64_t column, hn::Vec<D> first, hn::Vec<D> second) {
      hn::StoreU(first, d, values + key * tile + column);
      hn::StoreU(second, d, values + (key + 1) * tile + column);
    }
    void clear_weights(int64_t key, int64_t column, int64_t columns) { std::fill_n(values + key * tile + column, columns, 0.0f); }
  };

  template <Use use>
  void load_keys(const Keys& to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head,
                 int64_t index) const {
    pack(to.rows, heads, matrix, b, head, index);
  }

  template <Use use>
  void load_queries(Queries& to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head,
                    int64_t index) const {
    pack(to.rows, heads, matrix, b, head, index);
    const int64_t panel = panel_width();
    for (int64_t c = 0; c < tile; c += panel) transpose_words(to.panels + c * width_, panel, to.rows + c * width_, width_, panel, width_);
  }

  /// scores = X Y^T for the first `visible` keys and the panel of queries at `column`.
  void multiply_scores(Pairs& scores, const Keys& x, const Queries& y, int64_t column, int64_t visible) const {
    multiply_tile<Left::RowMajor, Result::Overwrite>(visible, panel_width(), D_, x.rows, width_, y.panels + column * width_, panel_width(),
                                                     scores.values + column, tile);
  }

  /// sums [D, tile] = or += X^T W for the same keys and queries.
  void sum_over_keys(float* sums, const Keys& x, const Pairs& w, int64_t column, int64_t visible, bool add) const {
    const auto multiply = add ? multiply_tile<Left::ColumnMajor, Result::Add> : multiply_tile<Left::ColumnMajor, Result::Overwrite>;
    multiply(D_, panel_width(), visible, x.rows, width_, w.values + column, tile, sums + column, tile);
  }

  /// sums [keys, width] += W Y for `strip` keys from `key` on and the queries from `query` on.
  void sum_over_queries(float* sums, const Pairs& w, const Queries& y, int64_t key, int64_t query) const {
    multiply_tile<Left::RowMajor, Result::Add>(strip, width_, tile - query, w.values + key * tile + query, tile, y.rows + query * width_,
                                               width_, sums + key * width_, width_);
  }

 private:
  /// to [tile, width] = a tile's rows, and zeros.
  void pack(float* to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head, int64_t index) const {
    const int64_t count = tile_rows(heads.shape.T, index);
    with_storage(heads.dtype, [&]<class T>(T*) {
      const auto rows = heads.rows<T>(matrix, b, head);
      for (int64_t r = 0; r < count; r++) {
        const T* from = rows[index * tile + r];
        fetch_row(rows[index * tile + r + rows_ahead], D_);
        float* row = to + r * width_;
        for_each_vector(D_, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(load(d, from + i), d, row + i); });
        std::fill(row + D_, row + width_, 0.0f);
      }
    });
    std::fill_n(to + count * width_, (tile - count) * width_, 0.0f);
  }

  int64_t D_, width_;
};

#if HWY_TARGET == HWY_AVX3

/// n numbers that nobody has set: bf16_t would begin as zero.
template <int64_t n>
struct Bf16Buffer {
  alignas(64) uint16_t bits[n];
  operator bf16_t*() { return reinterpret_cast<bf16_t*>(bits); }
  operator const bf16_t*() const { return reinterpret_cast<const bf16_t*>(bits); }
};

/// Products of bf16 matrices as they are, by a kernel of bf16_kernels.h, whose packed forms these are: weights are rounded to bf16 for
/// them, to nearest; sums are fp32.
class Bf16Tiles {
 public:
  explicit Bf16Tiles(const AttentionHeads& heads) : D_(heads.shape.D), width_(padded(D_)), multiply_(heads.bf16_kernel) {}

  static int64_t padded(int64_t D) { return rounded_up(D, Bf16Product::depth_step); }
  static constexpr int64_t strip = 32, panel = Bf16Product::panel_columns;

  struct Keys {
    Keys(float* memory, int64_t width) : rows(reinterpret_cast<bf16_t*>(memory)), columns(rows + tile * width) {}
    bf16_t *rows, *columns;  // [tile, width], [width, tile]
  };
  struct Queries {
    Bf16Buffer<tile * max_width> by_column;  // [width / 2, panel, 2] for each panel of queries
    Bf16Buffer<tile * max_width> by_row;     // [tile / 2, panel, 2] for each panel of columns
  };
  struct Pairs {
    alignas(64) float values[tile * tile];  // the scores
    Bf16Buffer<tile * tile> rows;           // the weights as sum_over_queries takes them, and
    Bf16Buffer<tile * tile> interleaved;    // as sum_over_keys does: [tile / 2, panel, 2] for each panel of queries

    template <Over over, class D>
    HWY_INLINE void set_weights(D d, int64_t key, int64_t column, hn::Vec<D> first, hn::Vec<D> second) {
      const hn::RebindToUnsigned<D> words;
      const auto one = rounded_words(d, first), other = rounded_words(d, second);
      if constexpr (over != Over::Queries) {
        bf16_t* to = interleaved + column / panel * tile * panel + key * panel + 2 * (column % panel);
        const auto upper = hn::Set(words, 0xFFFF0000u);
        hn::StoreU(hn::Or(hn::ShiftRight<16>(one), hn::And(other, upper)), words, reinterpret_cast<uint32_t*>(to));
      }
      if constexpr (over != Over::Keys) {
        store_upper_halves(one, d, rows + key * tile + column);
        store_upper_halves(other, d, rows + (key + 1) * tile + column);
      }
    }
    void clear_weights(int64_t, int64_t, int64_t) {}  // a strip is as high as a panel is wide: nobody reads there
  };

  template <Use use>
  void load_keys(const Keys& to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head,
                 int64_t index) const {
    copy(to.rows, heads, matrix, b, head, index);
    if constexpr (use != Use::Scores) {
      Bf16Buffer<tile * max_width> pairs;
      interleave(pairs, to.rows);
      for (int64_t c = 0; c < width_; c += panel) {
        transpose_words(words(to.columns + c * tile), tile / 2, words(pairs + c * tile), panel, tile / 2, panel);
      }
    }
  }

  template <Use use>
  void load_queries(Queries& to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head,
                    int64_t index) const {
    Bf16Buffer<tile * max_width> rows;
    copy(rows, heads, matrix, b, head, index);
    for (int64_t c = 0; c < tile; c += panel) {
      transpose_words(words(to.by_column + c * width_), panel, words(rows + c * width_), width_ / 2, panel, width_ / 2);
    }
    if constexpr (use != Use::Scores) interleave(to.by_row, rows);
  }

  void multiply_scores(Pairs& scores, const Keys& x, const Queries& y, int64_t column, int64_t visible) const {
    multiply_({.rows = visible,
               .panels = 1,
               .depth = D_,
               .a = x.rows,
               .a_stride = width_,
               .b = y.by_column + column * width_,
               .panel_stride = panel * width_,
               .c = scores.values + column,
               .c_stride = tile,
               .add = false});
  }

  void sum_over_keys(float* sums, const Keys& x, const Pairs& w, int64_t column, int64_t visible, bool add) const {
    multiply_({.rows = D_,
               .panels = 1,
               .depth = visible,
               .a = x.columns,
               .a_stride = tile,
               .b = w.interleaved + column * tile,
               .panel_stride = panel * tile,
               .c = sums + column,
               .c_stride = tile,
               .add = add});
  }

  void sum_over_queries(float* sums, const Pairs& w, const Queries& y, int64_t key, int64_t query) const {
    multiply_({.rows = strip,
               .panels = width_ / panel,
               .depth = tile - query,
               .a = w.rows + key * tile + query,
               .a_stride = tile,
               .b = y.by_row + query * panel,
               .panel_stride = panel * tile,
               .c = sums + key * width_,
               .c_stride = width_,
               .add = true});
  }

 private:
  /// As bf16_words, but for what weights can be: the lower halves of their NaN are zero, for they stem from bf16 numbers or from arithmetic.
  template <class D, class W = hn::Vec<hn::RebindToUnsigned<D>>>
  static HWY_INLINE W rounded_words(D, hn::Vec<D> value) {
    const hn::RebindToUnsigned<D> words;
    const W word = hn::BitCast(words, value);
    return hn::Add(hn::Add(word, hn::Set(words, 0x7FFFu)), hn::And(hn::ShiftRight<16>(word), hn::Set(words, 1u)));
  }

  static uint32_t* words(bf16_t* pairs) { return reinterpret_cast<uint32_t*>(pairs); }
  static const uint32_t* words(const bf16_t* pairs) { return reinterpret_cast<const uint32_t*>(pairs); }

  /// to [tile, width] = a tile's rows, and zeros.
  void copy(bf16_t* to, const AttentionHeads& heads, const AttentionHeads::Matrix& matrix, int64_t b, int64_t head, int64_t index) const {
    const int64_t count = tile_rows(heads.shape.T, index);
    const auto rows = heads.rows<bf16_t>(matrix, b, head);
    const int64_t last = width_ - panel;
    const __mmask32 present = static_cast<__mmask32>((uint64_t{1} << (D_ - last)) - 1);
    for (int64_t r = 0; r < count; r++) {
      const bf16_t* from = rows[index * tile + r];
      fetch_row(rows[index * tile + r + rows_ahead], D_);
      for (int64_t c = 0; c < last; c += panel) _mm512_store_si512(to + r * width_ + c, _mm512_loadu_si512(from + c));
      _mm512_store_si512(to + r * width_ + last, _mm512_maskz_loadu_epi16(present, from + last));
    }
    std::fill_n(to + count * width_, (tile - count) * width_, bf16_t());
  }

  /// to: [tile / 2, panel, 2] for each panel of columns of rows [tile, width].
  void interleave(bf16_t* to, const bf16_t* rows) const {
    for (int64_t c = 0; c < width_; c += panel) {
      for (int64_t r = 0; r < tile; r += 2) {
        const bf16_t* from = rows + r * width_ + c;
        interleave_columns(to + c * tile + r * panel, _mm512_load_si512(from), _mm512_load_si512(from + width_));
      }
    }
  }

  int64_t D_, width_;
  Bf16Multiplier multiply_;
};

#endif

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
