// Products of large bf16 matrices by the kernels of bf16_kernels.h, which want the right factor in packed panels.
//
// c = l r. A block of r, [up to 3072, columns], is packed once, if nobody has done it before, and met by all rows of l, a few at a time, so
// that these stay in the second cache; panels are worked on in pieces of up to 512 in depth, so that a piece stays in the first.
#include "kernels/cpu/bf16_matmul.h"

#include <omp.h>

#include <algorithm>

#include "base/error.h"
#include "base/packed_weight.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bf16_matmul.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"
#include "kernels/cpu/word_transpose-inl.h"

#ifndef TESSERA_BF16_MATMUL_ONCE
#define TESSERA_BF16_MATMUL_ONCE
namespace tessera {
namespace {

/// A factor as it is stored: element (i, k) of l, or (k, i) of r, where i counts rows of l or columns of r.
struct Bf16Factor {
  const bf16_t* data;
  int64_t stride;
  bool depth_contiguous;  // at i * stride + k, else at k * stride + i
};

/// c = l r.
struct Bf16Matmul {
  int64_t rows, columns, depth;
  Bf16Factor l, r;
  const bf16_t* packed;  // r in panels, or null
  Tensor c;              // [rows, columns]
  const bf16_t* bias;    // of c's columns, or null
  bool accumulate, read_late;
};

/// Rows and columns [begin, end) of one thread.
struct Bf16Part {
  int64_t row_begin, row_end, column_begin, column_end;
};

constexpr int64_t depth_of_block = 3072, depth_of_piece = 512, rows_in_cache = 128;
constexpr int64_t megabyte = int64_t{1} << 20;
constexpr int64_t packed_right_bytes = 3 * megabyte, packed_left_bytes = megabyte, sums_bytes = 4 * megabyte;
static_assert(packed_right_bytes + packed_left_bytes + sums_bytes == packing_bytes);

constexpr int64_t streamed_bytes = megabyte;  // the smallest result that goes past the caches

constexpr int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

}  // namespace
}  // namespace tessera
#endif

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_AVX3

constexpr int64_t panel = Bf16Product::panel_columns;

/// The first n of 32 elements, zeros behind.
HWY_INLINE __m512i load_first(const bf16_t* from, int64_t n) {
  if (n >= 32) return _mm512_loadu_si512(from);
  return _mm512_maskz_loadu_epi16(n <= 0 ? 0 : static_cast<__mmask32>((uint64_t{1} << n) - 1), from);
}

/// to [32, stride] = rows [count] with n elements of 32 each, zeros elsewhere.
HWY_INLINE void copy_block(bf16_t* to, int64_t to_stride, const bf16_t* from, int64_t stride, int64_t count, int64_t rows, int64_t n) {
  for (int64_t i = 0; i < rows; i++) {
    _mm512_storeu_si512(to + i * to_stride, i < count ? load_first(from + i * stride, n) : _mm512_setzero_si512());
  }
}

/// to [32, stride] = from [32 of depth, 32] transposed: `count` rows of depth and n columns exist.
HWY_INLINE void transpose_halves(bf16_t* to, int64_t to_stride, const bf16_t* from, int64_t stride, int64_t count, int64_t n) {
  alignas(64) uint32_t pairs[16 * 32];
  const __m512i zero = _mm512_setzero_si512();
  for (int64_t k = 0; k < 32; k += 2) {
    // Rows lie too far apart for the processor to expect the next ones.
    _mm_prefetch(reinterpret_cast<const char*>(from + (k + 32) * stride), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(from + (k + 33) * stride), _MM_HINT_T0);
    interleave_columns(pairs + k * 16, k < count ? load_first(from + k * stride, n) : zero,
                       k + 1 < count ? load_first(from + (k + 1) * stride, n) : zero);
  }
  for (int64_t i = 0; i < 32; i += 16) transpose_block(to + i * to_stride, to_stride / 2, pairs + i, 32);
}

/// Elements from one packed panel to the next: a few more than it has, or the same places of all panels would share cache lines.
constexpr int64_t panel_stride(int64_t depth) { return up_to(depth, 32) * Bf16Product::panel_columns + 64; }

/// A panel [depth / 2, 32, 2] of r's columns, where these lie with depth contiguous; depth is filled up to a multiple of 32.
void pack_transposed(bf16_t* to, const bf16_t* from, int64_t stride, int64_t columns, int64_t depth) {
  for (int64_t k = 0; k < depth; k += 32, to += 32 * panel, from += 32) {
    uint32_t* pairs = reinterpret_cast<uint32_t*>(to);
    if (columns == panel && depth - k >= 32 && stride % 2 == 0) {
      for (int64_t i = 0; i < 32; i += 16) transpose_block(pairs + i, panel, from + i * stride, stride / 2);
    } else {
      alignas(64) uint32_t rows[32 * 16];
      copy_block(reinterpret_cast<bf16_t*>(rows), 32, from, stride, columns, 32, std::min<int64_t>(32, depth - k));
      for (int64_t i = 0; i < 32; i += 16) transpose_block(pairs + i, panel, rows + i * 16, 16);
    }
  }
}

/// Panels of r's columns, where these are contiguous: pieces of rows as long as possible, so that few are begun.
void pack_interleaved(bf16_t* to, int64_t next_panel, const bf16_t* from, int64_t stride, int64_t columns, int64_t depth) {
  const __m512i zero = _mm512_setzero_si512();
  for (int64_t k = 0; k < up_to(depth, 32); k += 2, from += 2 * stride, to += 2 * panel) {
    for (int64_t i = 0; i < columns; i += panel) {
      interleave_columns(to + i / panel * next_panel, k < depth ? load_first(from + i, columns - i) : zero,
                         k + 1 < depth ? load_first(from + stride + i, columns - i) : zero);
    }
  }
}

/// Columns [begin, begin + columns) and depth [k, k + depth) of r as panels, `next_panel` elements apart.
void pack_right(bf16_t* to, int64_t next_panel, const Bf16Factor& r, int64_t begin, int64_t columns, int64_t k, int64_t depth) {
  constexpr int64_t together = 8 * panel;
  const int64_t step = r.depth_contiguous ? panel : together;
  for (int64_t i = 0; i < columns; i += step) {
    bf16_t* panels = to + i / panel * next_panel;
    const int64_t n = std::min(step, columns - i);
    if (r.depth_contiguous) {
      pack_transposed(panels, r.data + (begin + i) * r.stride + k, r.stride, n, depth);
    } else {
      pack_interleaved(panels, next_panel, r.data + k * r.stride + begin + i, r.stride, n, depth);
    }
  }
}

void pack_columns(bf16_t* packed, const Bf16Factor& r, int64_t begin, int64_t columns, int64_t depth) {
  const int64_t next_panel = packed_extent(depth) * panel;
  pack_right(packed + begin / panel * next_panel, next_panel, r, begin, columns, 0, depth);
}

/// Rows [begin, begin + rows) and depth [k, k + depth) of l as [rows up to 32, stride], zeros where there is nothing.
void pack_left(bf16_t* to, int64_t to_stride, const Bf16Matmul& p, int64_t begin, int64_t rows, int64_t k, int64_t depth) {
  if (p.l.depth_contiguous) {
    for (int64_t i = 0; i < up_to(rows, 16); i++) {
      const bf16_t* from = p.l.data + (begin + i) * p.l.stride + k;
      for (int64_t step = 0; step < depth; step += 32) {
        _mm512_storeu_si512(to + i * to_stride + step, i < rows ? load_first(from + step, depth - step) : _mm512_setzero_si512());
      }
    }
    return;
  }
  for (int64_t step = 0; step < depth; step += 32) {
    const bf16_t* from = p.l.data + (k + step) * p.l.stride + begin;
    for (int64_t i = 0; i < rows; i += 32) {
      transpose_halves(to + i * to_stride + step, to_stride, from + i, p.l.stride, std::min<int64_t>(32, depth - step),
                       std::min<int64_t>(32, rows - i));
    }
  }
}

/// c's rows [row, row + rows), columns [column, column + columns) = sums [rows, stride] + bias, rounded.
void write_rows(const Bf16Matmul& p, const float* sums, int64_t stride, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  for (int64_t r = 0; r < rows; r++, sums += stride) {
    bf16_t* to = static_cast<bf16_t*>(p.c.data) + (row + r) * p.c.row_stride() + column;
    const float* from = sums;
    if (p.bias == nullptr) {
      for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR { store(hn::LoadU(d, from + i), d, to + i); });
    } else {
      const bf16_t* bias = p.bias + column;
      for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR { store(hn::Add(hn::LoadU(d, from + i), load(d, bias + i)), d, to + i); });
    }
  }
}

/// c's fp32 rows += or = sums.
void write_sums(const Bf16Matmul& p, const float* sums, int64_t stride, int64_t row, int64_t rows, int64_t column, int64_t columns,
                bool add) {
  for (int64_t r = 0; r < rows; r++, sums += stride) {
    float* to = static_cast<float*>(p.c.data) + (row + r) * p.c.row_stride() + column;
    const float* from = sums;
    for_each_vector(columns, [=](auto d, int64_t i) HWY_ATTR {
      const auto value = hn::LoadU(d, from + i);
      hn::StoreU(add ? hn::Add(hn::LoadU(d, to + i), value) : value, d, to + i);
    });
  }
}

/// One thread's work. Its memory: packed right factor, packed left factor, sums.
class PartOfMatmul {
 public:
  PartOfMatmul(const Bf16Matmul& p, const Bf16Multiplier& multiply, std::byte* memory)
      : p_(p),
        multiply_(multiply),
        own_right_(reinterpret_cast<bf16_t*>(memory)),
        left_(reinterpret_cast<bf16_t*>(memory + packed_right_bytes)),
        sums_(reinterpret_cast<float*>(memory + packed_right_bytes + packed_left_bytes)),
        streams_(p.read_late && !p.accumulate && p.c.bytes() >= streamed_bytes && reinterpret_cast<uintptr_t>(p.c.data) % 64 == 0 &&
                 p.c.row_stride() % 16 == 0) {}

  void run(const Bf16Part& part) {
    const int64_t deepest = std::min(depth_of_block, up_to(p_.depth, 32));
    // Columns whose packed panels fit, and the sums of a block of rows; where depth needs several blocks, the sums of more rows.
    constexpr int64_t most = sums_bytes / 4 / rows_in_cache / panel * panel;
    const int64_t fitting = std::min(most, packed_right_bytes / 2 / panel_stride(deepest) * panel);
    const bool sums_wait = p_.c.dtype == DType::bf16 && p_.depth > depth_of_block;
    for (int64_t column = part.column_begin; column < part.column_end; column += fitting) {
      const int64_t columns = std::min(fitting, part.column_end - column);
      const int64_t rows_fitting = sums_bytes / 4 / up_to(columns, panel) / rows_in_cache * rows_in_cache;
      const int64_t rows_at_once = sums_wait ? rows_fitting : part.row_end - part.row_begin;
      for (int64_t row = part.row_begin; row < part.row_end; row += rows_at_once) {
        multiply_rows(row, std::min(rows_at_once, part.row_end - row), column, columns, sums_wait);
      }
    }
  }

 private:
  void multiply_rows(int64_t row, int64_t rows, int64_t column, int64_t columns, bool sums_wait) {
    for (int64_t k = 0; k < p_.depth; k += depth_of_block) {
      const int64_t depth = std::min(depth_of_block, p_.depth - k);
      if (p_.packed != nullptr) {
        next_panel_ = packed_extent(p_.depth) * panel;
        right_ = p_.packed + column / panel * next_panel_ + k * panel;
      } else {
        next_panel_ = panel_stride(depth), right_ = own_right_;
        pack_right(own_right_, next_panel_, p_.r, column, columns, k, depth);
      }
      for (int64_t r = 0, n; r < rows; r += n) {
        n = std::min(rows_in_cache, rows - r);
        if (n > Bf16Product::row_step) n -= n % Bf16Product::row_step;  // a rest of its own, wherever the part begins
        float* sums = sums_ + (sums_wait ? r * up_to(columns, panel) : 0);
        multiply_block(sums, row + r, n, column, columns, k, depth);
      }
    }
  }

  /// Up to rows_in_cache rows of l with the packed block of r.
  void multiply_block(float* sums, int64_t row, int64_t rows, int64_t column, int64_t columns, int64_t k, int64_t depth) {
    const int64_t pieces = (depth + depth_of_piece - 1) / depth_of_piece;
    const int64_t piece_depth = up_to((depth + pieces - 1) / pieces, 32);
    const bool in_place = p_.c.dtype == DType::f32 && rows % 16 == 0;
    const int64_t whole = in_place ? columns / panel * panel : 0, stride = up_to(columns, panel);
    float* c = in_place ? static_cast<float*>(p_.c.data) + row * p_.c.row_stride() + column : nullptr;
    for (int64_t begin = 0; begin < depth; begin += piece_depth) {
      const int64_t n = std::min(piece_depth, depth - begin);
      Bf16Product product{.rows = rows, .depth = up_to(n, 2), .panel_stride = next_panel_};
      place_left(product, row, rows, k + begin, n);
      if (whole > 0) {
        product.panels = whole / panel, product.b = right_ + begin * panel;
        product.c = c, product.c_stride = p_.c.row_stride(), product.add = p_.accumulate || k + begin > 0;
        product.stream = streams_ && n == p_.depth;
        multiply_(product);
      }
      if (whole < columns) {
        product.panels = (columns - whole + panel - 1) / panel, product.b = right_ + whole / panel * next_panel_ + begin * panel;
        product.c = sums + whole, product.c_stride = stride, product.add = begin > 0 || (p_.c.dtype == DType::bf16 && k > 0);
        multiply_(product);
      }
    }
    if (p_.c.dtype == DType::f32) {
      if (whole < columns) write_sums(p_, sums + whole, stride, row, rows, column + whole, columns - whole, p_.accumulate || k > 0);
    } else if (k + depth == p_.depth) {
      write_rows(p_, sums, stride, row, rows, column, columns);
    }
  }

  /// l as it lies, or a packed copy where it is transposed, ends within a step, or has rows a power of two apart, which would share a few
  /// lines of the first cache.
  void place_left(Bf16Product& product, int64_t row, int64_t rows, int64_t k, int64_t depth) {
    const bool aliasing = p_.l.stride % 2048 == 0;
    if (p_.l.depth_contiguous && depth % 32 == 0 && rows % 16 == 0 && !aliasing) {
      product.a = p_.l.data + row * p_.l.stride + k, product.a_stride = p_.l.stride;
    } else {
      product.a = left_, product.a_stride = up_to(depth, 32) + 32;
      pack_left(left_, product.a_stride, p_, row, rows, k, depth);
    }
  }

  const Bf16Matmul& p_;
  const Bf16Multiplier& multiply_;
  bf16_t *own_right_, *left_;  // the packed right factor, where this thread packs it, and the left one
  float* sums_;
  const bool streams_;             // results past the caches, unless they are read again for the rest of the depth
  const bf16_t* right_ = nullptr;  // panels of the present block
  int64_t next_panel_ = 0;
};

void multiply_part(const Bf16Matmul& p, const Bf16Part& part, Bf16Kernel kernel, std::byte* memory) {
  const Bf16Multiplier multiply(kernel);
  PartOfMatmul(p, multiply, memory).run(part);
}

#else

void multiply_part(const Bf16Matmul&, const Bf16Part&, Bf16Kernel, std::byte*) { invariant(false, "bf16 matmuls need AVX-512"); }
void pack_columns(bf16_t*, const Bf16Factor&, int64_t, int64_t, int64_t) { invariant(false, "packed weights need AVX-512"); }

#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {

HWY_EXPORT(multiply_part);
HWY_EXPORT(pack_columns);

Bf16Factor factor(const Tensor& matrix, bool depth_contiguous) { return {matrix.as<bf16_t>(), matrix.row_stride(), depth_contiguous}; }

Bf16Matmul described(const MatmulProduct& p) {
  return {.rows = p.m(),
          .columns = p.n(),
          .depth = p.k(),
          .l = factor(p.a, !p.transpose_a),
          .r = factor(p.b, p.transpose_b),
          .packed = p.packed_b.empty() ? nullptr : p.packed_b.as<bf16_t>(),
          .c = p.c,
          .bias = p.bias.empty() ? nullptr : p.bias.as<bf16_t>(),
          .accumulate = p.accumulate,
          .read_late = p.read_late};
}

/// Threads side by side in columns, the others in rows: so that as little as possible is packed twice.
int threads_across(const Bf16Matmul& p, int threads) {
  int best = 1;
  double best_cost = 0;
  for (int across = 1; across <= threads; across++) {
    if (threads % across != 0) continue;
    const double packed_twice = static_cast<double>(threads / across) * static_cast<double>(p.columns) +
                                static_cast<double>(across) * static_cast<double>(p.rows) * (p.l.depth_contiguous ? 0.25 : 1);
    if (across == 1 || packed_twice < best_cost) best = across, best_cost = packed_twice;
  }
  return best;
}

/// Cut `index` of `count` of [0, n), at multiples of `grain`.
int64_t cut(int64_t n, int64_t index, int64_t count, int64_t grain) { return std::min(n, up_to(n, grain) / grain * index / count * grain); }

}  // namespace

bool has_bf16_matmul() { return (hwy::SupportedTargets() & HWY_AVX3) != 0; }

void pack_bf16(const Tensor& packed, const Tensor& matrix, bool transposed, int threads) {
  invariant(has_bf16_matmul(), "packed weights need AVX-512");
  const int64_t depth = transposed ? matrix.columns() : matrix.rows(), columns = transposed ? matrix.rows() : matrix.columns();
  const Bf16Factor from = factor(matrix, transposed);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; t++) {
    const int64_t begin = cut(columns, t, threads, packed_step), end = cut(columns, t + 1, threads, packed_step);
    HWY_DYNAMIC_DISPATCH(pack_columns)(packed.as<bf16_t>(), from, begin, end - begin, depth);
  }
}

void multiply_bf16(const MatmulProduct& product, std::span<std::byte> workspace, int threads, Bf16Kernel kernel) {
  invariant(product.c.dtype == DType::bf16 ? !product.accumulate : product.bias.empty(),
            "bf16 matmuls add to fp32 only, and biases to bf16");
  invariant(has_bf16_matmul(), "bf16 matmuls need AVX-512");  // here, because nothing may be thrown on a team's thread
  invariant(static_cast<int64_t>(workspace.size()) >= threads * packing_bytes, "the workspace of a bf16 matmul is too small");
  const Bf16Matmul p = described(product);
  const int across = threads_across(p, threads), down = threads / across;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; t++) {
    const Bf16Part part{cut(p.rows, t / across, down, 32), cut(p.rows, t / across + 1, down, 32), cut(p.columns, t % across, across, 32),
                        cut(p.columns, t % across + 1, across, 32)};
    HWY_DYNAMIC_DISPATCH(multiply_part)(p, part, kernel, workspace.data() + t * packing_bytes);
  }
}

}  // namespace tessera
#endif
