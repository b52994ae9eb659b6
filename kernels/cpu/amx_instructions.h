#pragma once
#include <array>
#include <cstdint>
#include <cstring>

namespace tessera {

/// The instructions of AMX that our kernels use, and the same in plain C++, so that kernels are tested on machines without AMX. Tiles are
/// numbered 0 to 7 and hold 16 rows of 64 bytes, 16 floats or 32 bf16.      Intel SDM, volume 1, chapter 18; volume 2, TDPBF16PS

/// Marks functions that use AmxInstructions: some assemblers ask for it.
#define TESSERA_AMX __attribute__((target("amx-tile,amx-bf16")))

/// What LDTILECFG loads: eight whole tiles.
struct alignas(64) AmxConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(AmxConfiguration) == 64);

/// In assembly: GCC 12 takes the intrinsic _tile_loadconfig to read 8 bytes, and drops the stores of the others.
struct AmxInstructions {
  TESSERA_AMX static void configure(const AmxConfiguration& configuration) { asm volatile("ldtilecfg %0" ::"m"(configuration)); }
  TESSERA_AMX static void release() { asm volatile("tilerelease" ::: "memory"); }

  template <int t>
  TESSERA_AMX static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(t));
  }
  template <int t>
  TESSERA_AMX static void load(const void* from, int64_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(t) : "memory");
  }
  template <int t>
  TESSERA_AMX static void store(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(t) : "memory");
  }
  /// c += a b: a row-major, b with two successive rows interleaved.
  template <int c, int a, int b>
  TESSERA_AMX static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
};

/// Tiles that are not configured make a difference here too: they are NaN.
struct AmxEmulation {
  struct Tile {
    std::array<uint32_t, 256> words;  // [16, 16]
  };

  static void configure(const AmxConfiguration& configuration) {
    std::memset(tiles, configuration.palette == 1 ? 0 : 0xFF, sizeof tiles);
    for (int t = 0; t < 8; t++) {
      if (configuration.rows[t] != 16 || configuration.row_bytes[t] != 64) std::memset(&tiles[t], 0xFF, sizeof(Tile));
    }
  }
  static void release() { std::memset(tiles, 0xFF, sizeof tiles); }

  template <int t>
  static void zero() {
    tiles[t] = {};
  }
  template <int t>
  static void load(const void* from, int64_t stride_bytes) {
    for (int64_t r = 0; r < 16; r++) std::memcpy(&tiles[t].words[r * 16], static_cast<const char*>(from) + r * stride_bytes, 64);
  }
  template <int t>
  static void store(void* to, int64_t stride_bytes) {
    for (int64_t r = 0; r < 16; r++) std::memcpy(static_cast<char*>(to) + r * stride_bytes, &tiles[t].words[r * 16], 64);
  }
  template <int c, int a, int b>
  static void dot() {
    for (int r = 0; r < 16; r++) {
      for (int column = 0; column < 16; column++) {
        float even = 0, odd = 0;  // the instruction's own order; it also flushes denormals, which this does not
        for (int k = 0; k < 16; k++) {
          const uint32_t left = tiles[a].words[r * 16 + k], right = tiles[b].words[k * 16 + column];
          even += number(left << 16) * number(right << 16);
          odd += number(left & 0xFFFF0000u) * number(right & 0xFFFF0000u);
        }
        const float sum = number(tiles[c].words[r * 16 + column]) + (even + odd);
        std::memcpy(&tiles[c].words[r * 16 + column], &sum, sizeof sum);
      }
    }
  }

 private:
  static float number(uint32_t word) {
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
  static inline thread_local Tile tiles[8];
};

}  // namespace tessera
