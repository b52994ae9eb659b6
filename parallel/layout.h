#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

/// axis: a direction of the mesh, never "dim". degree: ranks along an axis. coordinate: a place on an axis. rank: a place in the world.
/// group: the ranks that differ along one axis only.
enum class Axis : uint8_t { Pp, Dp, Cp, Tp, Count };
constexpr int axes = static_cast<int>(Axis::Count);
const char* name_of(Axis axis);  // "pp"

using Coordinates = std::array<int, axes>;

/// How the work is laid over ranks: plain data, which planner, null device and communicators share.
struct Layout {
  std::array<int, axes> degrees{1, 1, 1, 1};
  int zero = 0;            // ZeRO stage: 0 or 1
  int64_t batch_size = 1;  // sequences a step, over all ranks
  int64_t micro_batch_size = 1;
  std::string schedule = "1f1b";  // or "gpipe"

  int degree(Axis axis) const { return degrees[static_cast<int>(axis)]; }
  int ranks() const;
  /// batch_size / (dp x micro_batch_size)
  int64_t micro_batches() const { return batch_size / (degree(Axis::Dp) * micro_batch_size); }
  bool operator==(const Layout&) const = default;
};

/// tp innermost, pp outermost: rank = ((pp * DP + dp) * CP + cp) * TP + tp; written only here (docs/decisions/0002-mesh-order.md).
int rank_of(const Layout& layout, const Coordinates& coordinates);
Coordinates coordinates_of(const Layout& layout, int rank);
/// The ranks of `rank`'s group along `axis`, by coordinate.
std::vector<int> group_of(const Layout& layout, Axis axis, int rank);
/// The first and last pipeline stage at `rank`'s other coordinates (one rank when pp = 1): where a tied weight's gradients meet.
/// Empty for ranks of the stages between.
std::vector<int> tied_group_of(const Layout& layout, int rank);

}  // namespace tessera
