// bf16 products on AMX tiles: blocks of 32 x 32 sums in four tiles, which meet two tiles of each factor.
// One source for the instructions and for their emulation.
#include "kernels/cpu/amx_instructions.h"
#include "kernels/cpu/bf16_functions.h"

namespace tessera {
namespace {

/// Tiles 0 to 3 hold the sums, 4 and 5 the rows of a, 6 and 7 the columns of b. c [16 row_tiles, 32].
template <class Amx, int row_tiles>
TESSERA_AMX void multiply_block(const Bf16Product& p, const bf16_t* a, const bf16_t* b, float* c) {
  constexpr int64_t float_bytes = sizeof(float), bf16_bytes = sizeof(bf16_t), pair_row_bytes = 2 * Bf16Product::panel_columns * bf16_bytes;
  const int64_t c_bytes = p.c_stride * float_bytes, a_bytes = p.a_stride * bf16_bytes;
  if (p.add) {
    Amx::template load<0>(c, c_bytes);
    Amx::template load<1>(c + 16, c_bytes);
    if constexpr (row_tiles == 2) {
      Amx::template load<2>(c + 16 * p.c_stride, c_bytes);
      Amx::template load<3>(c + 16 * p.c_stride + 16, c_bytes);
    }
  } else {
    Amx::template zero<0>();
    Amx::template zero<1>();
    if constexpr (row_tiles == 2) {
      Amx::template zero<2>();
      Amx::template zero<3>();
    }
  }
  for (int64_t k = 0; k < p.depth; k += Bf16Product::depth_step) {
    const bf16_t* pairs = b + k * Bf16Product::panel_columns;
    Amx::template load<6>(pairs, pair_row_bytes);
    Amx::template load<4>(a + k, a_bytes);
    Amx::template dot<0, 4, 6>();
    Amx::template load<7>(pairs + 32, pair_row_bytes);
    Amx::template dot<1, 4, 7>();
    if constexpr (row_tiles == 2) {
      Amx::template load<5>(a + 16 * p.a_stride + k, a_bytes);
      Amx::template dot<2, 5, 6>();
      Amx::template dot<3, 5, 7>();
    }
  }
  Amx::template store<0>(c, c_bytes);
  Amx::template store<1>(c + 16, c_bytes);
  if constexpr (row_tiles == 2) {
    Amx::template store<2>(c + 16 * p.c_stride, c_bytes);
    Amx::template store<3>(c + 16 * p.c_stride + 16, c_bytes);
  }
}

template <class Amx>
TESSERA_AMX void multiply(const Bf16Product& p) {
  for (int64_t panel = 0; panel < p.panels; panel++) {
    const bf16_t* b = p.b + panel * p.panel_stride;
    float* c = p.c + panel * Bf16Product::panel_columns;
    int64_t r = 0;
    for (; r + 16 < p.rows; r += 32) multiply_block<Amx, 2>(p, p.a + r * p.a_stride, b, c + r * p.c_stride);
    if (r < p.rows) multiply_block<Amx, 1>(p, p.a + r * p.a_stride, b, c + r * p.c_stride);
  }
}

template <class Amx>
TESSERA_AMX void configure() {
  static constexpr AmxConfiguration whole_tiles;
  Amx::configure(whole_tiles);
}

}  // namespace

const Bf16Functions amx_functions = {configure<AmxInstructions>, multiply<AmxInstructions>, AmxInstructions::release};
const Bf16Functions emulated_amx_functions = {configure<AmxEmulation>, multiply<AmxEmulation>, AmxEmulation::release};

}  // namespace tessera
