#include "engine/boxes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "base/error.h"

namespace tessera {
namespace {

const std::vector<Shape> shapes = {{}, {1}, {7}, {3, 5}, {5, 1, 3}, {1, 4}, {2, 3, 4}, {3, 2, 2, 3}};

/// The flat positions of a box's elements in the tensor, in the order of the box.
std::vector<int64_t> positions(const Shape& shape, const Box& box) {
  std::vector<int64_t> result = {0};
  for (int axis = 0; axis < shape.rank(); axis++) {
    std::vector<int64_t> next;
    for (int64_t position : result) {
      for (int64_t i = box.begin[axis]; i < box.end[axis]; i++) next.push_back(position * shape[axis] + i);
    }
    result = next;
  }
  return result;
}

TEST(Boxes, EveryRangeIsItsBoxesInOrderAndNoMoreThanTwiceTheRankMinusOne) {
  for (const Shape& shape : shapes) {
    for (int64_t begin = 0; begin <= shape.elements(); begin++) {
      for (int64_t end = begin; end <= shape.elements(); end++) {
        std::vector<int64_t> got, wanted(end - begin);
        std::iota(wanted.begin(), wanted.end(), begin);
        const std::vector<Box> boxes = boxes_of(shape, begin, end);
        for (const Box& box : boxes) {
          const std::vector<int64_t> part = positions(shape, box);
          EXPECT_EQ(box.elements(), static_cast<int64_t>(part.size()));
          got.insert(got.end(), part.begin(), part.end());
        }
        ASSERT_EQ(got, wanted) << shape.text() << " " << begin << " " << end;
        EXPECT_LE(boxes.size(), static_cast<size_t>(std::max(1, 2 * shape.rank() - 1)));
      }
    }
  }
}

TEST(Boxes, WholeTensorsAndWholeRowsAreOneBox) {
  for (const Shape& shape : shapes) EXPECT_EQ(boxes_of(shape, 0, shape.elements()), std::vector<Box>{Box::whole(shape)}) << shape.text();
  EXPECT_EQ(boxes_of({4, 6}, 6, 18), (std::vector<Box>{{{1, 0}, {3, 6}}}));
  EXPECT_EQ(boxes_of({4, 6}, 7, 11), (std::vector<Box>{{{1, 1}, {2, 5}}}));
  EXPECT_EQ(boxes_of({4, 6}, 4, 20), (std::vector<Box>{{{0, 4}, {1, 6}}, {{1, 0}, {3, 6}}, {{3, 0}, {4, 2}}}));
  EXPECT_EQ((Box{{0, 4}, {1, 6}}).text(), "0:1,4:6");
}

TEST(Boxes, RangesOutsideTheTensorAreRefused) {
  EXPECT_THROW(boxes_of({2, 3}, 0, 7), InternalError);
  EXPECT_THROW(boxes_of({2, 3}, 4, 3), InternalError);
  EXPECT_THROW(boxes_of({2, 3}, -1, 3), InternalError);
}

/// Every box of a shape.
std::vector<Box> all_boxes(const Shape& shape) {
  std::vector<Box> boxes = {{}};
  for (int64_t extent : shape) {
    std::vector<Box> next;
    for (const Box& box : boxes) {
      for (int64_t begin = 0; begin < extent; begin++) {
        for (int64_t end = begin + 1; end <= extent; end++) {
          next.push_back(box);
          next.back().begin.push_back(begin);
          next.back().end.push_back(end);
        }
      }
    }
    boxes = next;
  }
  return boxes;
}

TEST(Boxes, RunsOfAnIntersectionVisitEachCommonElementOnceAtItsPlaceInBoth) {
  const Shape shape = {2, 3, 3};
  const std::vector<Box> boxes = all_boxes(shape);
  for (const Box& source : boxes) {
    const std::vector<int64_t> in_source = positions(shape, source);
    for (const Box& target : boxes) {
      const std::vector<int64_t> in_target = positions(shape, target);
      std::vector<int64_t> wanted, got;
      std::ranges::set_intersection(in_source, in_target, std::back_inserter(wanted));
      const std::optional<Box> part = intersection(source, target);
      ASSERT_EQ(part.has_value(), !wanted.empty());
      if (!part) continue;
      for_each_run(source, target, *part, [&](int64_t from, int64_t to, int64_t elements) {
        for (int64_t i = 0; i < elements; i++) {
          ASSERT_EQ(in_source.at(from + i), in_target.at(to + i));
          got.push_back(in_source.at(from + i));
        }
      });
      ASSERT_EQ(got, wanted) << source.text() << " and " << target.text();
    }
  }
}

TEST(Boxes, WholeRowsAreOneRun) {
  int runs = 0;
  const Box rows = {{2, 0}, {5, 8}};
  for_each_run(rows, Box::whole({9, 8}), rows, [&](int64_t from, int64_t to, int64_t elements) {
    runs++;
    EXPECT_EQ(from, 0);
    EXPECT_EQ(to, 16);
    EXPECT_EQ(elements, 24);
  });
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace tessera
