#include "kernels/cpu/bf16_kernels.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "base/error.h"
#include "kernels/cpu/bf16_functions.h"

namespace tessera {
namespace {

/// Bits of CPUID's leaf 7.      Intel SDM, volume 2, CPUID
struct Features {
  bool avx512 = false, avx512_bf16 = false, amx_bf16 = false;

  Features() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const auto has = [](unsigned word, int bit) { return (word >> bit & 1) != 0; };
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return;
    avx512 = true;  // by the processor and by the kernel: __builtin_cpu_supports asks for both
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return;
    const unsigned subleaves = a;
    amx_bf16 = has(d, 22) && has(d, 24);
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) avx512_bf16 = has(a, 5);
  }
};

/// Linux gives a process the state of AMX tiles on demand only.      Documentation/arch/x86/xstate.rst
bool kernel_grants_tiles() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

std::vector<Bf16Kernel> find_candidates() {
  const Features features;
  std::vector<Bf16Kernel> found;
  if (features.avx512 && features.amx_bf16 && kernel_grants_tiles()) found.push_back(Bf16Kernel::Amx);
  if (features.avx512_bf16) found.push_back(Bf16Kernel::Avx512Bf16);
  found.push_back(Bf16Kernel::None);
  return found;
}

}  // namespace

std::string_view name_of(Bf16Kernel kernel) {
  switch (kernel) {
    case Bf16Kernel::None:
      return "fp32";
    case Bf16Kernel::Avx512Bf16:
      return "avx512-bf16";
    case Bf16Kernel::Amx:
      return "amx";
    case Bf16Kernel::EmulatedAmx:
      return "emulated amx";
  }
  return "";
}

Bf16Kernel bf16_kernel_named(std::string_view name) {
  for (const Bf16Kernel kernel : {Bf16Kernel::None, Bf16Kernel::Avx512Bf16, Bf16Kernel::Amx, Bf16Kernel::EmulatedAmx}) {
    if (name == name_of(kernel)) return kernel;
  }
  throw InternalError("no bf16 kernel has that name");
}

std::span<const Bf16Kernel> bf16_kernel_candidates() {
  static const std::vector<Bf16Kernel> candidates = find_candidates();
  return candidates;
}

const Bf16Functions& functions_of(Bf16Kernel kernel) {
  invariant(kernel != Bf16Kernel::None, "None is no bf16 kernel");
  return kernel == Bf16Kernel::Amx ? amx_functions : kernel == Bf16Kernel::Avx512Bf16 ? avx512_bf16_functions : emulated_amx_functions;
}

}  // namespace tessera
