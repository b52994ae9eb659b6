#pragma once
// Atomics on integers. All CUDA threads run on one host thread; the builtins only tell ThreadSanitizer that these accesses are atomic.
// Relaxed, as CUDA's are: a missing __threadfence shows. Sums of floating-point numbers are against the rules (kernels/cuda/README.md).
#include <algorithm>
#include <type_traits>

namespace cuda_emulation {

template <class T, class Change>
T atomic_change(T* address, Change change) {
  static_assert(std::is_integral_v<T>, "no float atomics: their order, and so the bits of a sum, is left to chance");
  T before = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(address, &before, static_cast<T>(change(before)), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

}  // namespace cuda_emulation

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T before) { return before + value; });
}
template <class T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T before) { return before - value; });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T before) { return std::max(before, value); });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T before) { return std::min(before, value); });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T before) { return before | value; });
}
template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T before) { return before & value; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [value](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return cuda_emulation::atomic_change(address, [=](T before) { return before == expected ? value : before; });
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return cuda_emulation::atomic_change(address, [last](unsigned before) { return before >= last ? 0u : before + 1; });
}
