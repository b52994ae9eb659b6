#include "kernels/cuda/cuda_ops.h"

namespace tessera {

/// One line a family. A device is opened when all are there.
CudaOps make_cuda_ops(const CudaContext& context) {
  return {.matmul = make_cuda_matmul_ops(context),
          .attention = make_cuda_attention_ops(context),
          .norm = make_cuda_norm_ops(context),
          .elementwise = make_cuda_elementwise_ops(context),
          .loss = make_cuda_loss_ops(context),
          .update = make_cuda_update_ops(context)};
}

}  // namespace tessera
