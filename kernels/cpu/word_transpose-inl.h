// Matrices of 32-bit words transposed: floats, or pairs of 16-bit numbers; and rows of 16-bit numbers interleaved to such pairs.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_WORD_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_WORD_TRANSPOSE_INL_H_
#undef TESSERA_KERNELS_CPU_WORD_TRANSPOSE_INL_H_
#else
#define TESSERA_KERNELS_CPU_WORD_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_AVX3

/// 16 x 16 words. Highway's older versions have nothing that moves 128-bit blocks between vectors, hence intrinsics.
HWY_INLINE void transpose_block(void* to, int64_t to_stride, const void* from, int64_t from_stride) {
  const auto unpacked = [](__m512i a, __m512i b, bool high)
                            HWY_ATTR { return high ? _mm512_unpackhi_epi32(a, b) : _mm512_unpacklo_epi32(a, b); };
  __m512i row[16], mixed[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) row[i] = _mm512_loadu_si512(static_cast<const uint32_t*>(from) + i * from_stride);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) mixed[i] = unpacked(row[i & ~1], row[i | 1], (i & 1) != 0);
    // row[4 g + i]: column 4 L + i of rows 4 g to 4 g + 3 in block L of 128 bits.
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) {
    row[g] = _mm512_unpacklo_epi64(mixed[g], mixed[g + 2]);
    row[g + 1] = _mm512_unpackhi_epi64(mixed[g], mixed[g + 2]);
    row[g + 2] = _mm512_unpacklo_epi64(mixed[g + 1], mixed[g + 3]);
    row[g + 3] = _mm512_unpackhi_epi64(mixed[g + 1], mixed[g + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    mixed[i] = _mm512_shuffle_i32x4(row[i], row[4 + i], 0x88);  // blocks 0 and 2 of both
    mixed[4 + i] = _mm512_shuffle_i32x4(row[i], row[4 + i], 0xDD);
    mixed[8 + i] = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0x88);
    mixed[12 + i] = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0xDD);
  }
  uint32_t* out = static_cast<uint32_t*>(to);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    _mm512_storeu_si512(out + i * to_stride, _mm512_shuffle_i32x4(mixed[i], mixed[8 + i], 0x88));
    _mm512_storeu_si512(out + (4 + i) * to_stride, _mm512_shuffle_i32x4(mixed[4 + i], mixed[12 + i], 0x88));
    _mm512_storeu_si512(out + (8 + i) * to_stride, _mm512_shuffle_i32x4(mixed[i], mixed[8 + i], 0xDD));
    _mm512_storeu_si512(out + (12 + i) * to_stride, _mm512_shuffle_i32x4(mixed[4 + i], mixed[12 + i], 0xDD));
  }
}

/// to [columns, rows] = from [rows, columns] transposed, strides in words; rows and columns are multiples of 16.
template <class Word>
void transpose_words(Word* to, int64_t to_stride, const Word* from, int64_t from_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += 16) {
    for (int64_t c = 0; c < columns; c += 16) transpose_block(to + c * to_stride + r, to_stride, from + r * from_stride + c, from_stride);
  }
}

/// 32 columns of two rows to pairs [32, 2]: element i of the first row, then element i of the second.
HWY_INLINE void interleave_columns(void* to, __m512i first, __m512i second) {
  alignas(64) static constexpr uint16_t order[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                     11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53,
                                                     22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  uint16_t* out = static_cast<uint16_t*>(to);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(first, _mm512_load_si512(order), second));
  _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi16(first, _mm512_load_si512(order + 32), second));
}

#else

template <class Word>
void transpose_words(Word* to, int64_t to_stride, const Word* from, int64_t from_stride, int64_t rows, int64_t columns) {
  for (int64_t c = 0; c < columns; c++) {
    for (int64_t r = 0; r < rows; r++) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
