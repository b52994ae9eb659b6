#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace tessera {

/// Up to four extents, outermost first, stored inline. The product is checked for overflow.
class Shape {
 public:
  static constexpr int max_rank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);  // InternalError on more than four, on a negative one, on overflow

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[axis]; }
  /// 1 for rank 0.
  int64_t elements() const { return elements_; }
  const int64_t* begin() const { return extents_.data(); }
  const int64_t* end() const { return extents_.data() + rank_; }
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "[768, 3072]"

 private:
  std::array<int64_t, max_rank> extents_{};
  int64_t elements_ = 1;
  int rank_ = 0;
};

}  // namespace tessera
