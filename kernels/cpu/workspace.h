#pragma once
#include <span>

#include "kernels/tensor.h"

namespace tessera {

/// Bytes that a cpu device grants its ops for intermediate results: room for the panels of a product, and for what each thread of an
/// attention or a loss keeps. They come from the arena, before everything else in it.
constexpr int64_t cpu_workspace_bytes(int threads) {
  constexpr int64_t least = int64_t{32} << 20, each = int64_t{4} << 20;
  return least < threads * each ? threads * each : least;
}

/// A family's view of the device's workspace. Ops run one after the other, so every op has all of it, and nothing stays in it.
class Workspace {
 public:
  /// `memory` becomes real when the device reserves.
  explicit Workspace(const Tensor& memory) : memory_(memory) {}
  /// Part `index` of `count` equal parts, which start at cache lines. InternalError before the device has memory.
  std::span<float> part(int64_t index, int64_t count) const;

 private:
  const Tensor& memory_;
};

}  // namespace tessera
