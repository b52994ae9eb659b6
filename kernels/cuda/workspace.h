#pragma once
#include <algorithm>
#include <cstdint>

namespace tessera {

/// Bytes that a cuda device grants its ops for intermediate results. Ops of the compute stream run one after the other, so each has all of
/// it: cuBLASLt 32 MiB, as NVIDIA recommends for Hopper; our own kernels 256 KiB of partial sums for each multiprocessor. Plain numbers,
/// because a null device grants the same on machines without CUDA.
constexpr int64_t cuda_workspace_bytes(int multiprocessors) {
  constexpr int64_t library = int64_t{32} << 20, each = int64_t{256} << 10;
  return std::max(library, multiprocessors * each);
}

}  // namespace tessera
