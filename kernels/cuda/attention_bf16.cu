#include "kernels/cuda/attention_kernels.h"

namespace tessera::cuda {

template void attention_forward(const AttentionOperands<__nv_bfloat16>&, cudaStream_t);
template void attention_backward(const AttentionOperands<__nv_bfloat16>&, cudaStream_t);

}  // namespace tessera::cuda
