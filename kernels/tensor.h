#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "base/dtype.h"
#include "base/half.h"
#include "base/shape.h"

namespace tessera {

/// Bytes of a contiguous tensor; InternalError when they overflow 64 bits.
int64_t bytes_of(const Shape& shape, DType dtype);

/// A view of memory that somebody else owns: up to four extents with strides in elements. Copying a Tensor copies the view.
/// A default-constructed Tensor is empty: "no bias", "no delta".
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  std::array<int64_t, Shape::max_rank> strides{};

  Tensor() = default;
  /// Contiguous, row-major.
  Tensor(void* data, DType dtype, Shape shape);

  bool empty() const { return data == nullptr; }
  int64_t elements() const { return shape.elements(); }
  /// Bytes of the elements, not of the span they lie in.
  int64_t bytes() const { return bytes_of(shape, dtype); }
  bool contiguous() const;

  /// A tensor seen as a matrix: all extents but the last are rows. InternalError for rank 0, an empty tensor among them.
  int64_t columns() const;
  int64_t rows() const { return columns() ? elements() / columns() : 0; }
  /// Elements between the starts of two rows; rank 2 or contiguous.
  int64_t row_stride() const;

  /// Views of rank-2 tensors: rows or columns [begin, end). InternalError when out of range.
  Tensor row_range(int64_t begin, int64_t end) const;
  Tensor column_range(int64_t begin, int64_t end) const;
  /// The same elements in another shape; contiguous only.
  Tensor reshaped(Shape other) const;
  /// Elements [begin, end) of a contiguous tensor as a flat one.
  Tensor flat_range(int64_t begin, int64_t end) const;
  Tensor flat() const { return flat_range(0, elements()); }

  /// The typed pointer; InternalError when T does not fit the dtype.
  template <class T>
  T* as() const;
};

template <>
float* Tensor::as<float>() const;
template <>
bf16_t* Tensor::as<bf16_t>() const;
template <>
f16_t* Tensor::as<f16_t>() const;
template <>
double* Tensor::as<double>() const;
template <>
int32_t* Tensor::as<int32_t>() const;
template <>
uint8_t* Tensor::as<uint8_t>() const;

}  // namespace tessera
