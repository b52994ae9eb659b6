#pragma once
#include <cublasLt.h>

#include <memory>

#include "kernels/attention_ops.h"
#include "kernels/elementwise_ops.h"
#include "kernels/loss_ops.h"
#include "kernels/matmul_ops.h"
#include "kernels/norm_ops.h"
#include "kernels/update_ops.h"

namespace tessera {

/// What a rank's op families know of its GPU. It outlives them.
struct CudaContext {
  const Tensor& workspace;  // of the device, where its memory will be; each op has all of it
  cublasLtHandle_t blas = nullptr;
  int multiprocessors = 0;
  int compute_capability = 0;  // 90: sm_90
};

/// The op families on a GPU: each op enqueues on cuda_stream(stream) and returns.
std::unique_ptr<MatmulOps> make_cuda_matmul_ops(const CudaContext& context);
std::unique_ptr<AttentionOps> make_cuda_attention_ops(const CudaContext& context);
std::unique_ptr<NormOps> make_cuda_norm_ops(const CudaContext& context);
std::unique_ptr<ElementwiseOps> make_cuda_elementwise_ops(const CudaContext& context);
std::unique_ptr<LossOps> make_cuda_loss_ops(const CudaContext& context);
std::unique_ptr<UpdateOps> make_cuda_update_ops(const CudaContext& context);

namespace cuda {
/// UpdateOps::update (update_rules.cu).
void enqueue_update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper, int64_t step,
                    const StepControl* control, int multiprocessors, cudaStream_t stream);
}  // namespace cuda

}  // namespace tessera
