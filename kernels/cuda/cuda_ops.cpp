#include "kernels/cuda/cuda_ops.h"

namespace tessera {

/// One line a family, as its bodies come: `.matmul = make_cuda_matmul_ops(context)`. A device is opened when all are there.
CudaOps make_cuda_ops(const CudaContext& context) {
  CudaOps ops;
  ops.norm = make_cuda_norm_ops(context);
  ops.elementwise = make_cuda_elementwise_ops(context);
  ops.loss = make_cuda_loss_ops(context);
  ops.update = make_cuda_update_ops(context);
  return ops;
}

}  // namespace tessera
