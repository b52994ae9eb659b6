#pragma once
// Shared memory of a block. Not initialized: in emulation it is full of NaN.
#include <cuda_runtime.h>

#include <cstddef>

namespace tessera::cuda {

/// Static shared memory of type T: one instance a block and kernel for each T, so a kernel names its own struct.
template <class T>
__device__ __forceinline__ T& shared() {
  static_assert(sizeof(T) <= 48 * 1024 && alignof(T) <= 16, "more than 48 KiB of shared memory must be dynamic");
#ifdef TESSERA_CUDA_EMULATION
  static const char key = 0;
  return *static_cast<T*>(::cuda_emulation::static_shared(&key, sizeof(T)));
#else
  __shared__ __align__(16) unsigned char bytes[sizeof(T)];
  return *reinterpret_cast<T*>(bytes);
#endif
}

/// The dynamic shared memory that LaunchShape asked for, 128-byte aligned, as an array of T.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef TESSERA_CUDA_EMULATION
  return static_cast<T*>(::cuda_emulation::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char tessera_dynamic_shared_bytes[];
  return reinterpret_cast<T*>(tessera_dynamic_shared_bytes);
#endif
}

}  // namespace tessera::cuda
