#include "kernels/cpu/workspace.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include "base/error.h"

namespace tessera {

Workspace::Workspace(int64_t floats) {
  const size_t count = static_cast<size_t>(floats), bytes = count * sizeof(float);
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    throw OutOfMemoryError(
        {fmt::format("the system refused {} bytes of workspace", bytes), "making the cpu device", {}, "lower parallel.threads"});
  }
  madvise(address, bytes, MADV_HUGEPAGE);  // advice only: fewer misses where the system has huge pages
  memory_ = {static_cast<float*>(address), count};
}

Workspace::~Workspace() { munmap(memory_.data(), memory_.size_bytes()); }

std::span<float> Workspace::part(int64_t index, int64_t count) const {
  const size_t each = memory_.size() / static_cast<size_t>(count);
  return memory_.subspan(static_cast<size_t>(index) * each, each);
}

}  // namespace tessera
