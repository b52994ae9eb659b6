#pragma once
#include "kernels/cpu/bf16_kernels.h"

namespace tessera {

/// The kernels as they are compiled, one source each; bf16_kernels.cpp chooses.
extern const Bf16Functions avx512_bf16_functions;
extern const Bf16Functions amx_functions;
extern const Bf16Functions emulated_amx_functions;

}  // namespace tessera
