#pragma once
// Shuffles, votes and reductions of a warp, as the CUDA C++ Programming Guide defines them. None of them orders memory: that is __syncwarp's.
#include <algorithm>

#include "tests/cuda_emulation/emulator.h"

namespace cuda_emulation {

template <class T>
T shuffle(unsigned mask, Collective kind, T value, int source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "CUDA shuffles words of 2, 4 or 8 bytes");
  T out;
  warp_shuffle(mask, kind, &value, sizeof(T), source, &out);
  return out;
}

inline unsigned ballot(unsigned mask, Collective kind, bool predicate) {
  const int in = predicate;
  int all[32];
  warp_gather(mask, kind, &in, sizeof in, all);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; l++) bits |= all[l] ? 1u << l : 0u;
  return bits;
}

template <class T, class Combine>
T warp_reduction(unsigned mask, Collective kind, T value, Combine combine) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4, "__reduce_*_sync reduces 32-bit integers");
  T all[32];
  warp_gather(mask, kind, &value, sizeof value, all);
  unsigned l = 0;
  while (((mask >> l) & 1u) == 0) l++;
  T sum = all[l];
  for (l++; l < 32; l++) {
    if ((mask >> l) & 1u) sum = combine(sum, all[l]);
  }
  return sum;
}

}  // namespace cuda_emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = cuda_emulation::lane();
  return cuda_emulation::shuffle(mask, cuda_emulation::Collective::Shuffle, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = cuda_emulation::lane(), source = lane - static_cast<int>(delta);
  return cuda_emulation::shuffle(mask, cuda_emulation::Collective::ShuffleUp, value, source < (lane & ~(width - 1)) ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = cuda_emulation::lane(), source = lane + static_cast<int>(delta);
  return cuda_emulation::shuffle(mask, cuda_emulation::Collective::ShuffleDown, value, source > (lane | (width - 1)) ? lane : source);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int lane = cuda_emulation::lane(), source = lane ^ lane_mask;
  return cuda_emulation::shuffle(mask, cuda_emulation::Collective::ShuffleXor, value, source > (lane | (width - 1)) ? lane : source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_emulation::ballot(mask, cuda_emulation::Collective::Ballot, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return cuda_emulation::ballot(mask, cuda_emulation::Collective::Any, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return cuda_emulation::ballot(mask, cuda_emulation::Collective::All, predicate != 0) == mask;
}
inline unsigned __activemask() { return 1u << cuda_emulation::lane(); }  // legal, and breaks code that expects more

template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return cuda_emulation::warp_reduction(mask, cuda_emulation::Collective::ReduceAdd, value, [](T a, T b) { return static_cast<T>(a + b); });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return cuda_emulation::warp_reduction(mask, cuda_emulation::Collective::ReduceMax, value, [](T a, T b) { return std::max(a, b); });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return cuda_emulation::warp_reduction(mask, cuda_emulation::Collective::ReduceMin, value, [](T a, T b) { return std::min(a, b); });
}
