#pragma once
#include <cstdint>

#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/tensor.h"

namespace tessera {

/// What one thread does of a norm op, on the best instruction set of the machine: tensors as in norm_ops.h, and rows or columns
/// [begin, end) of them. Any cut gives the same bits.

void layer_norm_forward_rows(const Tensor& h, const Tensor& n, const Tensor& mean, const Tensor& rstd, const Tensor& residual,
                             const Tensor& delta, const Tensor& weight, const Tensor& bias, float epsilon, int64_t begin, int64_t end);
void layer_norm_backward_input_rows(const Tensor& dx, const Tensor& dh, const Tensor& dn, const Tensor& h, const Tensor& mean,
                                    const Tensor& rstd, const Tensor& weight, int64_t begin, int64_t end);

void rms_norm_forward_rows(const Tensor& h, const Tensor& n, const Tensor& rstd, const Tensor& residual, const Tensor& delta,
                           const Tensor& weight, float epsilon, int64_t begin, int64_t end);
void rms_norm_backward_input_rows(const Tensor& dx, const Tensor& dh, const Tensor& dn, const Tensor& h, const Tensor& rstd,
                                  const Tensor& weight, int64_t begin, int64_t end);

/// The weight gradients of both norms, in three steps; RMS norm has neither dbias nor mean, which are empty then. Rows that are summed
/// before their sum meets the total: the error grows with the chunk and the number of chunks, not with their product.
constexpr int64_t norm_chunk_rows = 64;
/// sums [last_chunk - first_chunk, 2, H] = over each chunk's rows: of dn x, and of dn in layer norm.
void norm_chunk_sums(float* sums, const Tensor& dn, const Tensor& h, const Tensor& mean, const Tensor& rstd, int64_t first_chunk,
                     int64_t last_chunk);
/// totals [2, H] += sums [chunks, 2, H] in order; columns [begin, end).
void norm_add_sums(float* totals, const float* sums, int64_t chunks, int64_t H, int64_t begin, int64_t end);
/// dweight [H] = or += totals[0],  dbias [H] = or += totals[1]; columns [begin, end).
void norm_write_gradients(const Tensor& dweight, const Tensor& dbias, const float* totals, GradientWrite write,
                          const RandomStream& rounding, int64_t begin, int64_t end);

}  // namespace tessera
