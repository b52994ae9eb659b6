// Included before anything of Highway in every file with SIMD code: three instruction sets are compiled, whatever Highway's version knows.
#pragma once

// Highway numbers x86's instruction sets by bits that never change: 8 is AVX-512 (AVX3), 9 is AVX2 with FMA, 14 is SSE2, the baseline
// from version 1.0.4 on (before, and with compilers older than GCC 12.3, the baseline is scalar code). What lies between or above brings our
// loops nothing but compile time. Numbers, because not every version knows every name.
#ifdef HWY_DISABLED_TARGETS
#error "include kernels/cpu/targets.h before Highway"
#endif
#define HWY_DISABLED_TARGETS (0xFFLL | (1LL << 11) | (1LL << 12))
