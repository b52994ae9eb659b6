#include "engine/boxes.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace tessera {

Box Box::whole(const Shape& shape) { return {std::vector<int64_t>(shape.rank(), 0), std::vector<int64_t>(shape.begin(), shape.end())}; }

int64_t Box::elements() const {
  int64_t product = 1;
  for (int64_t extent : extents()) product *= extent;
  return product;
}

std::vector<int64_t> Box::extents() const {
  std::vector<int64_t> result;
  for (size_t axis = 0; axis < begin.size(); axis++) result.push_back(end[axis] - begin[axis]);
  return result;
}

std::string Box::text() const {
  std::string result;
  for (size_t axis = 0; axis < begin.size(); axis++) result += fmt::format("{}{}:{}", axis ? "," : "", begin[axis], end[axis]);
  return result;
}

std::vector<Box> boxes_of(const Shape& shape, int64_t begin, int64_t end) {
  invariant(0 <= begin && begin <= end && end <= shape.elements(), "boxes_of: a range outside the tensor");
  std::vector<Box> boxes;
  for (int64_t at = begin; at < end;) {
    // The box begins at `at` and grows along the outermost axis of which whole indices fit.
    int64_t inner = shape.elements();  // elements of one index of `axis`
    int axis = -1;                     // stays -1 for a scalar
    while (axis < 0 || at % inner != 0 || at + inner > end) {
      if (++axis == shape.rank()) break;
      inner /= shape[axis];
    }
    Box box = Box::whole(shape);
    int64_t rest = at, below = shape.elements();
    int64_t taken = inner;
    for (int a = 0; a <= axis && a < shape.rank(); a++) {
      below /= shape[a];
      box.begin[a] = rest / below;
      rest %= below;
      const int64_t count = a == axis ? std::min((end - at) / inner, shape[a] - box.begin[a]) : 1;
      box.end[a] = box.begin[a] + count;
      taken = count * inner;
    }
    boxes.push_back(std::move(box));
    at += taken;
  }
  return boxes;
}

std::optional<Box> intersection(const Box& a, const Box& b) {
  invariant(a.begin.size() == b.begin.size(), "boxes of different tensors do not intersect");
  Box common = a;
  for (size_t axis = 0; axis < a.begin.size(); axis++) {
    common.begin[axis] = std::max(a.begin[axis], b.begin[axis]);
    common.end[axis] = std::min(a.end[axis], b.end[axis]);
    if (common.begin[axis] >= common.end[axis]) return {};
  }
  return common;
}

/// The place of an index of the tensor among the elements of `box`.
static int64_t position(const Box& box, const std::vector<int64_t>& index) {
  int64_t result = 0;
  for (size_t axis = 0; axis < index.size(); axis++) {
    result = result * (box.end[axis] - box.begin[axis]) + index[axis] - box.begin[axis];
  }
  return result;
}

void for_each_run(const Box& source, const Box& target, const Box& part, const VisitRun& visit) {
  // Runs join across an axis when the part has all of both boxes along every axis within it.
  const std::vector<int64_t> extents = part.extents();
  size_t outer = part.begin.size();  // axes in front of it are walked
  int64_t run = 1;
  while (outer > 0) {
    run *= extents[--outer];
    if (extents[outer] != source.end[outer] - source.begin[outer] || extents[outer] != target.end[outer] - target.begin[outer]) break;
  }
  const int64_t runs = run ? part.elements() / run : 0;
  std::vector<int64_t> index = part.begin;
  for (int64_t i = 0; i < runs; i++) {
    visit(position(source, index), position(target, index), run);
    for (size_t axis = outer; axis-- > 0;) {
      if (++index[axis] < part.end[axis]) break;
      index[axis] = part.begin[axis];
    }
  }
}

}  // namespace tessera
