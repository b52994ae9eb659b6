#pragma once
// What Address- and ThreadSanitizer must be told of fibers and of the order between CUDA threads. Without a sanitizer: nothing. The emulator
// itself is compiled without instrumentation; the build defines TESSERA_EMULATION_ASAN or TESSERA_EMULATION_TSAN for it.
#include <cstddef>

#if defined(TESSERA_EMULATION_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(TESSERA_EMULATION_TSAN)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(TESSERA_EMULATION_ASAN) || defined(TESSERA_EMULATION_TSAN)
extern "C" void __sanitizer_print_stack_trace();
#endif

namespace cuda_emulation {

#if defined(TESSERA_EMULATION_ASAN)
inline void start_switch_of_stacks(void** fake_stack, const void* to, std::size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, to, bytes);
}
inline void finish_switch_of_stacks(void* fake_stack, const void** from, std::size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from, bytes);
}
#else
inline void start_switch_of_stacks(void**, const void*, std::size_t) {}
inline void finish_switch_of_stacks(void*, const void**, std::size_t*) {}
#endif

// ThreadSanitizer sees each CUDA thread, and each stream, as a thread of its own. Switching orders nothing; happens_before and
// happens_after on the same address do, where CUDA promises an order.
#if defined(TESSERA_EMULATION_TSAN)
constexpr bool races_are_watched = true;
inline void* create_watched_thread() { return __tsan_create_fiber(0); }
inline void* current_watched_thread() { return __tsan_get_current_fiber(); }
inline void switch_watched_thread(void* to) { __tsan_switch_to_fiber(to, __tsan_switch_to_fiber_no_sync); }
inline void happens_before(void* address) { __tsan_release(address); }
inline void happens_after(void* address) { __tsan_acquire(address); }
#else
constexpr bool races_are_watched = false;
inline void* create_watched_thread() { return nullptr; }
inline void* current_watched_thread() { return nullptr; }
inline void switch_watched_thread(void*) {}
inline void happens_before(void*) {}
inline void happens_after(void*) {}
#endif

}  // namespace cuda_emulation
