#pragma once
// Launches of the elementwise kernels. Tensors as in kernels/elementwise_ops.h.
#include <cuda_runtime_api.h>

#include "kernels/elementwise_ops.h"

namespace tessera::cuda {

void cast(const Tensor& to, const Tensor& from, float factor, cudaStream_t stream);
void add(const Tensor& out, const Tensor& a, const Tensor& b, cudaStream_t stream);
void ordered_sum(const Tensor& out, const Tensor& pieces, cudaStream_t stream);

void gelu_forward(const Tensor& y, const Tensor& x, cudaStream_t stream);
void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, cudaStream_t stream);
void swiglu_forward(const Tensor& y, const Tensor& gate_up, cudaStream_t stream);
void swiglu_backward(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, cudaStream_t stream);

void rotary(const Tensor& x, const Tensor& table, Turn turn, cudaStream_t stream);

void embedding_forward(const Tensor& h, const Tensor& tokens, const Tensor& token_weight, const Tensor& position_weight, int64_t T,
                       cudaStream_t stream);
void token_embedding_backward(const Tensor& dtoken, const Tensor& dh, const Tensor& tokens, const Tensor& order, GradientWrite write,
                              const RandomStream& rounding, cudaStream_t stream);
void position_embedding_backward(const Tensor& dposition, const Tensor& dh, int64_t T, GradientWrite write, const RandomStream& rounding,
                                 cudaStream_t stream);

}  // namespace tessera::cuda
