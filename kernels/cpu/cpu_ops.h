#pragma once
#include <memory>

#include "kernels/attention_ops.h"
#include "kernels/elementwise_ops.h"
#include "kernels/loss_ops.h"
#include "kernels/matmul_ops.h"
#include "kernels/norm_ops.h"
#include "kernels/update_ops.h"

namespace tessera {

/// The op families on the CPU; each op runs on `threads` OpenMP threads and returns when it is done. `workspace`: of the device, where
/// its memory will be.
/// Bits depend on the thread count in matmuls only: all other sums have an order of their own.
std::unique_ptr<MatmulOps> make_cpu_matmul_ops(int threads, const Tensor& workspace);
std::unique_ptr<AttentionOps> make_cpu_attention_ops(int threads, const Tensor& workspace);
std::unique_ptr<NormOps> make_cpu_norm_ops(int threads, const Tensor& workspace);
std::unique_ptr<ElementwiseOps> make_cpu_elementwise_ops(int threads);
std::unique_ptr<LossOps> make_cpu_loss_ops(int threads, const Tensor& workspace);
std::unique_ptr<UpdateOps> make_cpu_update_ops(int threads);

}  // namespace tessera
