#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/sanitizers.h"

namespace cuda_emulation {

void fault(const char* format, ...) {
  std::fflush(stdout);
  std::fputs("\nCUDA emulation: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  if (current) {
    const uint3 b = current->block, t = current->thread;
    std::fprintf(stderr, "\n  block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
  }
  std::fputs("\n", stderr);
#if defined(TESSERA_EMULATION_ASAN) || defined(TESSERA_EMULATION_TSAN)
  __sanitizer_print_stack_trace();
#endif
  std::_Exit(99);
}

}  // namespace cuda_emulation
