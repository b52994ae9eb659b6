#pragma once
// Force-included into .cu files, which then compile as C++ (g++ 12 or clang++ 14 and newer) with kernels that run on the host. Types and the
// runtime's declarations are those of the real toolkit; the runtime's definitions are in this folder and are linked in place of libcudart.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tests/cuda_emulation/emulator.h"

#define TESSERA_CUDA_EMULATION 1

// __global__, __device__ and __host__ are empty for a C++ compiler already.
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ shared_memory_comes_from_shared_of_T_or_dynamic_shared_of_T  // kernels/cuda/shared.h

#define threadIdx (::cuda_emulation::current->thread)
#define blockIdx (::cuda_emulation::current->block)
#define blockDim (::cuda_emulation::current->block_size)
#define gridDim (::cuda_emulation::current->grid_size)
#define warpSize 32

#define cudaLaunchKernelEx ::cuda_emulation::launch_kernel_ex

#define __syncthreads() ::cuda_emulation::sync_threads(__FILE__, __LINE__)
#define __syncthreads_count(predicate) \
  ::cuda_emulation::sync_threads_vote(__FILE__, __LINE__, (predicate) != 0, ::cuda_emulation::BarrierVote::Count)
#define __syncthreads_and(predicate) \
  ::cuda_emulation::sync_threads_vote(__FILE__, __LINE__, (predicate) != 0, ::cuda_emulation::BarrierVote::And)
#define __syncthreads_or(predicate) \
  ::cuda_emulation::sync_threads_vote(__FILE__, __LINE__, (predicate) != 0, ::cuda_emulation::BarrierVote::Or)

inline void __syncwarp(unsigned mask = 0xffffffffu) { ::cuda_emulation::sync_warp(mask); }
inline void __threadfence() { ::cuda_emulation::fence(); }
inline void __threadfence_block() { ::cuda_emulation::fence(); }
inline void __threadfence_system() { ::cuda_emulation::fence(); }

#include "tests/cuda_emulation/shim_atomics.h"
#include "tests/cuda_emulation/shim_math.h"
#include "tests/cuda_emulation/shim_warp.h"
