#include "kernels/cuda/attention_kernels.h"

namespace tessera::cuda {

template void attention_forward(const AttentionOperands<__half>&, cudaStream_t);
template void attention_backward(const AttentionOperands<__half>&, cudaStream_t);

}  // namespace tessera::cuda
