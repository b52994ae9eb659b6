#pragma once
#include <memory>

#include "kernels/attention_ops.h"
#include "kernels/elementwise_ops.h"
#include "kernels/loss_ops.h"
#include "kernels/matmul_ops.h"
#include "kernels/norm_ops.h"
#include "kernels/update_ops.h"

namespace tessera {

/// The op families of a dry run: the public functions check, price and trace; the bodies are empty and touch no memory.
std::unique_ptr<MatmulOps> make_null_matmul_ops();
std::unique_ptr<AttentionOps> make_null_attention_ops();
std::unique_ptr<NormOps> make_null_norm_ops();
std::unique_ptr<ElementwiseOps> make_null_elementwise_ops();
std::unique_ptr<LossOps> make_null_loss_ops();
std::unique_ptr<UpdateOps> make_null_update_ops();

}  // namespace tessera
