#include "kernels/cuda/attention_kernels.h"

namespace tessera::cuda {

template void attention_forward(const AttentionOperands<float>&, cudaStream_t);
template void attention_backward(const AttentionOperands<float>&, cudaStream_t);

}  // namespace tessera::cuda
