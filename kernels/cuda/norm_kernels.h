#pragma once
// Launches of the norms' kernels. Tensors as in kernels/norm_ops.h; RMS norm has neither mean nor bias nor dbias, which are empty then.
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_ops.h"

namespace tessera::cuda {

void norm_forward(const Tensor& h, const Tensor& n, const Tensor& mean, const Tensor& rstd, const Tensor& residual, const Tensor& delta,
                  const Tensor& weight, const Tensor& bias, float epsilon, const CudaContext& context, cudaStream_t stream);
void norm_backward_input(const Tensor& dx, const Tensor& dh, const Tensor& dn, const Tensor& h, const Tensor& mean, const Tensor& rstd,
                         const Tensor& weight, const CudaContext& context, cudaStream_t stream);
void norm_backward_weight(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                          const Tensor& rstd, GradientWrite write, const RandomStream& rounding, const CudaContext& context,
                          cudaStream_t stream);

}  // namespace tessera::cuda
