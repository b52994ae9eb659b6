#include "kernels/cpu/workspace.h"

#include "base/error.h"

namespace tessera {

std::span<std::byte> Workspace::whole() const {
  invariant(!memory_.empty(), "a device's ops need its memory: reserve comes first");
  return {static_cast<std::byte*>(memory_.data), static_cast<size_t>(memory_.bytes())};
}

std::span<float> Workspace::part(int64_t index, int64_t count) const {
  constexpr int64_t line = 64;
  const std::span<std::byte> bytes = whole();
  const int64_t each = static_cast<int64_t>(bytes.size()) / count / line * line;
  return as_floats(bytes.subspan(static_cast<size_t>(index * each), static_cast<size_t>(each)));
}

}  // namespace tessera
