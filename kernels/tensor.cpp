#include "kernels/tensor.h"

#include "base/error.h"

namespace tessera {

Tensor::Tensor(void* data_, DType dtype_, Shape shape_) : data(data_), dtype(dtype_), shape(shape_) {
  int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
}

bool Tensor::contiguous() const {
  int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; axis--) {
    if (shape[axis] > 1 && strides[axis] != stride) return false;
    stride *= shape[axis];
  }
  return true;
}

int64_t bytes_of(const Shape& shape, DType dtype) {
  int64_t bytes = 0;
  invariant(!__builtin_mul_overflow(shape.elements(), bytes_of(dtype), &bytes), "the bytes of a tensor overflow 64 bits");
  return bytes;
}

int64_t Tensor::columns() const {
  invariant(shape.rank() > 0, "an op got an empty tensor where a matrix is needed");
  return shape[shape.rank() - 1];
}

int64_t Tensor::row_stride() const {
  invariant(shape.rank() == 2 || contiguous(), "row_stride of a strided tensor that is not a matrix");
  return shape.rank() == 2 ? strides[0] : columns();
}

static Tensor moved(Tensor view, int64_t elements) {
  view.data = static_cast<char*>(view.data) + elements * bytes_of(view.dtype);
  return view;
}

Tensor Tensor::row_range(int64_t begin, int64_t end) const {
  invariant(shape.rank() == 2 && begin >= 0 && begin <= end && end <= shape[0], "row_range outside a matrix");
  Tensor view = moved(*this, begin * strides[0]);
  view.shape = {end - begin, shape[1]};
  return view;
}

Tensor Tensor::column_range(int64_t begin, int64_t end) const {
  invariant(shape.rank() == 2 && begin >= 0 && begin <= end && end <= shape[1], "column_range outside a matrix");
  Tensor view = moved(*this, begin * strides[1]);
  view.shape = {shape[0], end - begin};
  return view;
}

Tensor Tensor::reshaped(Shape other) const {
  invariant(contiguous() && other.elements() == elements(), "reshaped needs a contiguous tensor of as many elements");
  return Tensor(data, dtype, other);
}

Tensor Tensor::flat_range(int64_t begin, int64_t end) const {
  invariant(contiguous() && begin >= 0 && begin <= end && end <= elements(), "flat_range outside a contiguous tensor");
  return moved(Tensor(data, dtype, {end - begin}), begin);
}

template <>
float* Tensor::as<float>() const {
  invariant(dtype == DType::f32, "the tensor is not fp32");
  return static_cast<float*>(data);
}
template <>
bf16_t* Tensor::as<bf16_t>() const {
  invariant(dtype == DType::bf16, "the tensor is not bf16");
  return static_cast<bf16_t*>(data);
}
template <>
f16_t* Tensor::as<f16_t>() const {
  invariant(dtype == DType::f16, "the tensor is not fp16");
  return static_cast<f16_t*>(data);
}
template <>
double* Tensor::as<double>() const {
  invariant(dtype == DType::f64, "the tensor is not fp64");
  return static_cast<double*>(data);
}
template <>
int32_t* Tensor::as<int32_t>() const {
  invariant(dtype == DType::i32, "the tensor is not int32");
  return static_cast<int32_t*>(data);
}
template <>
uint8_t* Tensor::as<uint8_t>() const {
  invariant(dtype == DType::u8, "the tensor is not bytes");
  return static_cast<uint8_t*>(data);
}

}  // namespace tessera
