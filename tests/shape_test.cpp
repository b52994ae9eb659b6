#include "base/shape.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"

namespace tessera {

TEST(Shape, HoldsItsExtentsOutermostFirst) {
  const Shape shape = {768, 3072};
  EXPECT_EQ(shape.rank(), 2);
  EXPECT_EQ(shape[0], 768);
  EXPECT_EQ(shape[1], 3072);
  EXPECT_EQ(shape.elements(), 768 * 3072);
  EXPECT_EQ(shape.end() - shape.begin(), 2);
  EXPECT_EQ(shape.text(), "[768, 3072]");
}

TEST(Shape, OfRankZeroHasOneElement) {
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape().text(), "[]");
}

TEST(Shape, WithAnEmptyExtentHasNoElements) { EXPECT_EQ(Shape({3, 0, 5}).elements(), 0); }

TEST(Shape, ComparesExtentsAndRank) {
  EXPECT_EQ(Shape({2, 3}), Shape({2, 3}));
  EXPECT_NE(Shape({2, 3}), Shape({3, 2}));
  EXPECT_NE(Shape({2, 3}), Shape({2, 3, 1}));
}

TEST(Shape, TakesTheLargestProductAndRefusesTheNext) {
  const int64_t largest = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(Shape({largest}).elements(), largest);
  EXPECT_EQ(Shape({int64_t{1} << 31, int64_t{1} << 31}).elements(), int64_t{1} << 62);
  EXPECT_THROW(Shape({largest, 2}), InternalError);
  EXPECT_THROW(Shape({int64_t{1} << 32, int64_t{1} << 31}), InternalError);
}

TEST(Shape, RefusesNegativeExtentsAndFiveOfThem) {
  EXPECT_THROW(Shape({4, -1}), InternalError);
  EXPECT_NO_THROW(Shape({1, 2, 3, 4}));
  EXPECT_THROW(Shape({1, 2, 3, 4, 5}), InternalError);
}

}  // namespace tessera
