#include "kernels/cpu/workspace.h"

#include "base/error.h"

namespace tessera {

std::span<float> Workspace::part(int64_t index, int64_t count) const {
  invariant(!memory_.empty(), "a device's ops need its memory: reserve comes first");
  constexpr int64_t line = 64;
  const int64_t each = memory_.bytes() / count / line * line;
  char* begin = static_cast<char*>(memory_.data) + index * each;
  return {reinterpret_cast<float*>(begin), static_cast<size_t>(each) / sizeof(float)};
}

}  // namespace tessera
