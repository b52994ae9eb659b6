#include "base/shape.h"

#include "base/error.h"

namespace tessera {

Shape::Shape(std::initializer_list<int64_t> extents) {
  invariant(extents.size() <= max_rank, "a shape has at most four extents");
  for (int64_t extent : extents) {
    invariant(extent >= 0, "an extent is negative");
    if (__builtin_mul_overflow(elements_, extent, &elements_)) throw InternalError("the number of elements of a shape overflows 64 bits");
    extents_[rank_++] = extent;
  }
}

std::string Shape::text() const {
  std::string out = "[";
  for (int axis = 0; axis < rank_; axis++) out += (axis ? ", " : "") + std::to_string(extents_[axis]);
  return out + "]";
}

}  // namespace tessera
