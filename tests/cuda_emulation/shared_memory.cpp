// A block's shared memory.
#include <sys/mman.h>

#include <cstdlib>
#include <utility>

#include "tests/cuda_emulation/sanitizers.h"
#include "tests/cuda_emulation/scheduler.h"

namespace cuda_emulation {
namespace {

constexpr std::size_t alignment = 128, keys_max = 64;
void* dynamic_memory = nullptr;
std::pair<const void*, void*> static_memory[keys_max];
std::size_t keys = 0;

// ThreadSanitizer: a large range of addresses, used in a ring.
constexpr std::size_t ring_bytes = std::size_t{1} << 30;
char* ring = nullptr;

void* take_from_ring(std::size_t bytes) {
  static std::size_t used = 0;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (used + rounded > ring_bytes) used = 0;
  used += rounded;
  return ring + used - rounded;
}

void give_back(void* memory) {
  if (!races_are_watched) std::free(memory);
}

}  // namespace

void prepare_shared_memory() {
  if (!races_are_watched || ring) return;
  void* pages = mmap(nullptr, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) fault("no addresses for shared memory");
  ring = static_cast<char*>(pages);
}

void* take_shared_memory(std::size_t bytes) {
  void* memory = nullptr;
  if (races_are_watched) {
    memory = take_from_ring(bytes);
  } else if (posix_memalign(&memory, alignment, bytes) != 0) {
    fault("no host memory for %zu bytes of shared memory", bytes);
  }
  raw_fill(memory, 0xff, bytes);
  return memory;
}

void begin_shared_memory(std::size_t dynamic_bytes) { dynamic_memory = dynamic_bytes ? take_shared_memory(dynamic_bytes) : nullptr; }

void end_shared_memory() {
  if (dynamic_memory) give_back(dynamic_memory);
  for (std::size_t i = 0; i < keys; i++) give_back(static_memory[i].second);
  keys = 0;
  dynamic_memory = nullptr;
}

void* dynamic_shared() {
  if (!dynamic_memory) fault("the kernel uses dynamic shared memory, and its launch gave none");
  return dynamic_memory;
}

void* static_shared(const void* key, std::size_t bytes) {
  for (std::size_t i = 0; i < keys; i++) {
    if (static_memory[i].first == key) return static_memory[i].second;
  }
  if (keys == keys_max) fault("a kernel has more than %zu kinds of static shared memory", keys_max);
  static_memory[keys] = {key, take_shared_memory(bytes)};
  return static_memory[keys++].second;
}

}  // namespace cuda_emulation
