#pragma once
// Reductions over the lanes of a warp and the threads of a block. Every order is fixed: the same bits every time.
#include "kernels/cuda/shared.h"

namespace tessera::cuda {

constexpr int warp_lanes = 32;
constexpr unsigned all_lanes = 0xffffffffu;

/// Of one-dimensional blocks.
__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % warp_lanes; }
__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / warp_lanes; }

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
  // fmaxf drops a NaN; this one keeps it, so that a non-finite value shows.
  __device__ __forceinline__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

/// `combine` over all 32 lanes, the result in each of them. All lanes of the warp must call it; it orders no memory.
template <class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = warp_lanes / 2; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(all_lanes, value, distance));
  return value;
}
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce(value, Sum{});
}
template <class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce(value, Max{});
}

template <class T>
struct WarpResults {
  T of_warp[warp_lanes];
};

/// `combine` over all threads of a one-dimensional block of whole warps, the result in each of them. All threads must call it. Two barriers:
/// what a thread wrote to shared memory before the call is seen by all after it.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T value, T identity, Combine combine) {
  T(&of_warp)[warp_lanes] = shared<WarpResults<T>>().of_warp;
  const int warps = static_cast<int>(blockDim.x) / warp_lanes;
  value = warp_reduce(value, combine);
  __syncthreads();  // the readers of an earlier call are done
  if (lane_of_thread() == 0) of_warp[warp_of_thread()] = value;
  __syncthreads();
  return warp_reduce(lane_of_thread() < warps ? of_warp[lane_of_thread()] : identity, combine);
}
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce(value, T(0), Sum{});
}
/// `lowest`: what a maximum over nothing would be, -infinity for logits.
template <class T>
__device__ __forceinline__ T block_max(T value, T lowest) {
  return block_reduce(value, lowest, Max{});
}

}  // namespace tessera::cuda
