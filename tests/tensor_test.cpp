#include "kernels/tensor.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tessera {
namespace {

TEST(Tensor, ANewOneIsContiguousAndRowMajor) {
  float data[24];
  const Tensor t(data, DType::f32, {2, 3, 4});
  EXPECT_EQ(t.strides[0], 12);
  EXPECT_EQ(t.strides[1], 4);
  EXPECT_EQ(t.strides[2], 1);
  EXPECT_TRUE(t.contiguous());
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_EQ(t.rows(), 6);
  EXPECT_EQ(t.columns(), 4);
  EXPECT_EQ(t.row_stride(), 4);
}

TEST(Tensor, ADefaultOneIsEmpty) {
  EXPECT_TRUE(Tensor().empty());
  float data[1];
  EXPECT_FALSE(Tensor(data, DType::f32, {1}).empty());
}

TEST(Tensor, RowAndColumnRangesPointIntoTheMatrix) {
  float data[20];
  const Tensor matrix(data, DType::f32, {4, 5}), part = matrix.row_range(1, 3).column_range(2, 4);
  EXPECT_EQ(part.as<float>(), data + 1 * 5 + 2);
  EXPECT_EQ(part.shape, Shape({2, 2}));
  EXPECT_EQ(part.row_stride(), 5);
  EXPECT_FALSE(part.contiguous());
  EXPECT_EQ(part.bytes(), 16) << "of the elements, not of the span";
  EXPECT_TRUE(matrix.row_range(1, 3).contiguous());
  EXPECT_TRUE(matrix.column_range(2, 4).row_range(0, 1).contiguous()) << "one row is contiguous however far the next would be";
  EXPECT_EQ(matrix.row_range(4, 4).elements(), 0);
}

TEST(Tensor, RangesOutsideAreInternalErrors) {
  float data[20];
  const Tensor matrix(data, DType::f32, {4, 5}), vector(data, DType::f32, {20});
  EXPECT_THROW(matrix.row_range(0, 5), InternalError);
  EXPECT_THROW(matrix.row_range(3, 2), InternalError);
  EXPECT_THROW(matrix.column_range(-1, 2), InternalError);
  EXPECT_THROW(matrix.column_range(0, 6), InternalError);
  EXPECT_THROW(vector.row_range(0, 1), InternalError) << "not a matrix";
  EXPECT_THROW(vector.flat_range(0, 21), InternalError);
}

TEST(Tensor, FlatRangeAndReshapedKeepTheElements) {
  int32_t data[12];
  const Tensor matrix(data, DType::i32, {3, 4});
  EXPECT_EQ(matrix.flat_range(5, 9).as<int32_t>(), data + 5);
  EXPECT_EQ(matrix.flat_range(5, 9).shape, Shape({4}));
  EXPECT_EQ(matrix.flat().elements(), 12);
  EXPECT_EQ(matrix.reshaped({2, 6}).row_stride(), 6);
  EXPECT_THROW(matrix.reshaped({5, 2}), InternalError);
  EXPECT_THROW(matrix.column_range(0, 2).reshaped({6}), InternalError) << "strided";
  EXPECT_THROW(matrix.column_range(0, 2).flat(), InternalError);
}

TEST(Tensor, TheTypedPointerFitsTheDtypeOrThrows) {
  double data[2];
  const Tensor t(data, DType::f64, {2});
  EXPECT_EQ(t.as<double>(), data);
  EXPECT_THROW(t.as<float>(), InternalError);
  EXPECT_THROW(t.as<int32_t>(), InternalError);
  EXPECT_THROW(t.as<uint8_t>(), InternalError);
}

}  // namespace
}  // namespace tessera
