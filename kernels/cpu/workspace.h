#pragma once
#include <cstddef>
#include <span>

#include "kernels/tensor.h"

namespace tessera {

/// What each thread of a matrix product uses of the workspace for packed panels.
constexpr int64_t packing_bytes = int64_t{8} << 20;

/// Bytes that a cpu device grants its ops for intermediate results: fp32 sums on their way to a 16-bit result or a gradient, and packed
/// panels for each thread; attentions, losses and norms take less. They come from the arena, before everything else in it.
constexpr int64_t cpu_workspace_bytes(int threads) {
  constexpr int64_t sums = int64_t{16} << 20, least = int64_t{32} << 20;
  const int64_t bytes = sums + threads * packing_bytes;
  return bytes < least ? least : bytes;
}

/// A family's view of the device's workspace. Ops run one after the other, so every op has all of it, and nothing stays in it.
class Workspace {
 public:
  /// `memory` becomes real when the device reserves.
  explicit Workspace(const Tensor& memory) : memory_(memory) {}
  /// InternalError before the device has memory, as in part().
  std::span<std::byte> whole() const;
  /// Part `index` of `count` equal parts, which start at cache lines.
  std::span<float> part(int64_t index, int64_t count) const;

 private:
  const Tensor& memory_;
};

/// The same bytes as floats.
inline std::span<float> as_floats(std::span<std::byte> bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

}  // namespace tessera
