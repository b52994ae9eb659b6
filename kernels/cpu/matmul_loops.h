#pragma once
#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/tensor.h"

namespace tessera {

/// What one thread does around the products of linear layers, on the best instruction set of the machine. Any cut gives the same bits.

/// to[i] = from[i] for n elements; at least one of the two is fp32. Rounded to nearest.
void convert_range(void* to, DType to_type, const void* from, DType from_type, int64_t n);

/// gradient[i] = or += sums[i] for n elements, fp32, or bf16 rounded stochastically: element i by half word first + i.
void write_gradient_range(void* gradient, DType dtype, const float* sums, int64_t n, GradientWrite write, const RandomStream& rounding,
                          uint64_t first);

/// Columns [begin, end) of dbias = or += the sum of dy's rows: element e is rounded by half word first + e where dbias is bf16.
void bias_gradient_columns(const Tensor& dbias, const Tensor& dy, GradientWrite write, const RandomStream& rounding, uint64_t first,
                           int64_t begin, int64_t end);

}  // namespace tessera
