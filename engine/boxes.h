#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/shape.h"

namespace tessera {

/// An N-d box of a tensor: [begin[a], end[a]) along each axis. Its elements are stored row-major.
struct Box {
  std::vector<int64_t> begin, end;

  static Box whole(const Shape& shape);
  int64_t elements() const;
  std::vector<int64_t> extents() const;
  std::string text() const;  // "0:3,16:32"
  bool operator==(const Box&) const = default;
};

/// The fewest boxes that make up the row-major elements [begin, end) of a shape, in order: at most 2 rank - 1.
std::vector<Box> boxes_of(const Shape& shape, int64_t begin, int64_t end);

/// What two boxes of one tensor have in common; no value when that is nothing.
std::optional<Box> intersection(const Box& a, const Box& b);

/// Visits the elements of `part`, which lies in both boxes, in the longest runs that are contiguous in both: `from` and `to` are the
/// positions of a run's first element among those of `source` and of `target`.
using VisitRun = std::function<void(int64_t from, int64_t to, int64_t elements)>;
void for_each_run(const Box& source, const Box& target, const Box& part, const VisitRun& visit);

}  // namespace tessera
