#pragma once
// Stacks to run streams and CUDA threads on: one host thread at a time, switched by hand.
#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

namespace cuda_emulation {

struct Fiber {
  boost::context::detail::fcontext_t context{};
  void (*entry)() = nullptr;
  const void* stack = nullptr;  // lowest address
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* watched = nullptr;     // ThreadSanitizer's thread
};

/// The one that runs; the host thread's own stack counts as one.
Fiber& running_fiber();

/// A new fiber; at its first switch it calls `entry`, which must never return. Fibers live as long as the process.
Fiber* create_fiber(void (*entry)());
void switch_to(Fiber& to);

}  // namespace cuda_emulation
