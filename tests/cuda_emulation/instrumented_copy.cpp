// Compiled with the sanitizers' instrumentation, unlike the emulator: copies that a kernel makes through it.
#include "tests/cuda_emulation/scheduler.h"

namespace cuda_emulation {

void land_copy(void* to, const void* from, unsigned bytes, unsigned source_bytes) {
  auto* out = static_cast<unsigned char*>(to);
  auto* in = static_cast<const unsigned char*>(from);
  for (unsigned i = 0; i < bytes; i++) out[i] = i < source_bytes ? in[i] : 0;
}

void spoil(void* memory, unsigned bytes) {
  auto* out = static_cast<unsigned char*>(memory);
  for (unsigned i = 0; i < bytes; i++) out[i] = 0xff;
}

}  // namespace cuda_emulation
