#pragma once
// The emulated device: the least of what Tessera's CUDA targets (sm_80 and newer) have, so that kernels which run here fit all of them. It
// says sm_80; the shared memory of a block is sm_86's.
#include <cstddef>

namespace cuda_emulation {

constexpr int capability_major = 8, capability_minor = 0, multiprocessors = 4;
constexpr unsigned grid_x_max = 2147483647, grid_yz_max = 65535, block_z_max = 64;
constexpr std::size_t shared_bytes_default = 48 * 1024;                                   // without cudaFuncSetAttribute
constexpr std::size_t shared_bytes_opt_in = 99 * 1024, shared_bytes_per_sm = 100 * 1024;  // sm_86
constexpr int l2_bytes = 40 * 1024 * 1024, runtime_version = 13000;

/// cudaFuncAttributeMaxDynamicSharedMemorySize; false when the device has not as much.
bool allow_dynamic_shared(const void* kernel, std::size_t bytes);

}  // namespace cuda_emulation
