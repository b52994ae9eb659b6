#pragma once
#include <cstdint>
#include <span>

namespace tessera {

/// Memory that a family of ops keeps for intermediate results: taken from the system once, at a fixed size, so that no op allocates.
/// Pages that no op ever touches cost nothing.
class Workspace {
 public:
  /// Throws OutOfMemoryError when the system refuses.
  explicit Workspace(int64_t floats);
  ~Workspace();
  Workspace(const Workspace&) = delete;

  /// Part `index` of `count` equal parts.
  std::span<float> part(int64_t index, int64_t count) const;

 private:
  std::span<float> memory_;
};

}  // namespace tessera
