#include "tests/cuda_emulation/device_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/scheduler.h"
#include "tests/cuda_emulation/settings.h"

namespace cuda_emulation {
namespace {

struct Range {
  std::size_t bytes = 0;
  bool is_protected = false;
};
class Ranges {
 public:
  void add(void* memory, Range range) { by_address_[static_cast<char*>(memory)] = range; }
  bool remove(void* memory, Range* removed = nullptr) {
    const auto found = by_address_.find(static_cast<char*>(memory));
    if (found == by_address_.end()) return false;
    if (removed) *removed = found->second;
    by_address_.erase(found);
    return true;
  }
  /// Bytes from `address` to the end of its range; 0 when it lies in none.
  std::size_t bytes_from(const void* address) const {
    auto* wanted = static_cast<char*>(const_cast<void*>(address));
    auto after = by_address_.upper_bound(wanted);
    if (after == by_address_.begin()) return 0;
    --after;
    char* end = after->first + after->second.bytes;
    return wanted < end ? static_cast<std::size_t>(end - wanted) : 0;
  }

 private:
  std::map<char*, Range> by_address_;
};

constexpr std::size_t page_bytes = 4096, protected_bytes_max = std::size_t{16} << 30;

Ranges& device() {
  static auto* ranges = new Ranges;
  return *ranges;
}
Ranges& pinned() {
  static auto* ranges = new Ranges;
  return *ranges;
}
std::size_t taken_bytes = 0;

// Memory that can be protected lies in one range of pages, so that one call opens all of it. Addresses are not used twice.
char* protected_range = nullptr;
std::size_t protected_bytes = 0;
int open_count = 0;

void set_access(int access) {
  if (protected_bytes) mprotect(protected_range, protected_bytes, access);
}

void* take_protected(std::size_t bytes) {
  if (!protected_range) {
    void* pages = mmap(nullptr, protected_bytes_max, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    protected_range = static_cast<char*>(pages);
  }
  const std::size_t rounded = (bytes + page_bytes - 1) / page_bytes * page_bytes;
  if (protected_bytes + rounded > protected_bytes_max) return nullptr;
  char* memory = protected_range + protected_bytes;
  protected_bytes += rounded;
  mprotect(memory, rounded, PROT_READ | PROT_WRITE);
  std::memset(memory, 0xff, bytes);
  if (open_count == 0) mprotect(memory, rounded, PROT_NONE);
  return memory;
}

// Not by memset, which sanitizers watch: a device's arena in a test is much larger than what the test touches. In huge pages, where the system
// gives them, because most of the time went into faults of small ones.
void* take_filled(std::size_t bytes) {
  constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;
  void* memory = nullptr;
  if (posix_memalign(&memory, bytes >= huge_page_bytes ? huge_page_bytes : 256, bytes) != 0) return nullptr;
  if (bytes >= huge_page_bytes) madvise(memory, bytes / page_bytes * page_bytes, MADV_HUGEPAGE);
  raw_fill(memory, 0xff, bytes);
  return memory;
}

}  // namespace

void* take_device_memory(std::size_t bytes) {
  if (taken_bytes + bytes > settings().device_bytes) return nullptr;
  const bool is_protected = settings().protect_device_memory;
  void* memory = is_protected ? take_protected(bytes) : take_filled(bytes);
  if (!memory) return nullptr;
  device().add(memory, {bytes, is_protected});
  taken_bytes += bytes;
  return memory;
}

bool give_back_device_memory(void* memory) {
  Range range;
  if (!device().remove(memory, &range)) return false;
  taken_bytes -= range.bytes;
  if (range.is_protected) {
    madvise(memory, range.bytes, MADV_DONTNEED);
  } else {
    std::free(memory);
  }
  return true;
}

std::size_t device_bytes_taken() { return taken_bytes; }

void* take_pinned_memory(std::size_t bytes) {
  void* memory = take_filled(bytes);
  if (memory) pinned().add(memory, {bytes});
  return memory;
}

bool give_back_pinned_memory(void* memory) {
  if (!pinned().remove(memory)) return false;
  std::free(memory);
  return true;
}

void register_pinned_memory(void* memory, std::size_t bytes) { pinned().add(memory, {bytes}); }
bool unregister_pinned_memory(void* memory) { return pinned().remove(memory); }

bool is_device_memory(const void* address) { return device().bytes_from(address) > 0; }
bool is_pinned_memory(const void* address) { return pinned().bytes_from(address) > 0; }

void expect_device_range(const char* what, const void* address, std::size_t bytes) {
  const std::size_t there = device().bytes_from(address);
  if (there == 0) fault("%s: %p is not device memory", what, address);
  if (there < bytes) fault("%s: %zu bytes at %p leave their allocation, which has %zu from there", what, bytes, address, there);
}

void expect_host_range(const char* what, const void* address, std::size_t bytes) {
  if (is_device_memory(address)) fault("%s: %p is device memory", what, address);
  const std::size_t there = pinned().bytes_from(address);
  if (there > 0 && there < bytes)
    fault("%s: %zu bytes at %p leave their pinned allocation, which has %zu from there", what, bytes, address, there);
}

void open_device_memory() {
  if (open_count++ == 0) set_access(PROT_READ | PROT_WRITE);
}
void close_device_memory() {
  if (--open_count == 0) set_access(PROT_NONE);
}

}  // namespace cuda_emulation
