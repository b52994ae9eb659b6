#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>

#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/tensor.h"

namespace tessera {

/// gradient[i] = or += sums[i], bf16 by half word first + i. gradient [n] fp32 or bf16, sums [n] fp32, both contiguous.
void write_sums(Tensor gradient, const float* sums, GradientWrite write, const RandomStream& rounding, uint64_t first, cudaStream_t stream);

/// dbias = or += the sum of dy over its rows, bf16 by half word first + column. dbias [O] fp32 or bf16, dy [N, O], rows may lie apart.
/// Rows are added in an order that depends on N alone. workspace: 4 O bytes for each 128 rows, or else columns go in turns.
void write_column_sums(Tensor dbias, const Tensor& dy, GradientWrite write, const RandomStream& rounding, uint64_t first,
                       std::span<std::byte> workspace, cudaStream_t stream);

}  // namespace tessera
