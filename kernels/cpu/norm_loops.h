#pragma once
#include <cstdint>

#include "base/random.h"
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

/// The weight gradients of both norms: RMS norm has neither dbias nor mean, which are empty then.
void norm_backward_weight_columns(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                                  const Tensor& rstd, RandomStream rounding, int64_t begin, int64_t end);

}  // namespace tessera
