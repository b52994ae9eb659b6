#include "kernels/null/null_ops.h"

namespace tessera {
namespace {

class NullMatmulOps : public MatmulOps {
  void do_linear_forward(Tensor, Tensor, Tensor, Tensor, Tensor, Stream&) override {}
  void do_linear_backward_input(Tensor, Tensor, Tensor, Tensor, Stream&) override {}
  void do_linear_backward_weight(Tensor, Tensor, Tensor, Tensor, GradientWrite, RandomStream, Stream&) override {}
  void do_pack_weight(Tensor, Tensor, PackedFor, Stream&) override {}
};

class NullAttentionOps : public AttentionOps {
  void do_attention_forward(Tensor, Tensor, Tensor, Tensor, Tensor, AttentionShape, Stream&) override {}
  void do_attention_backward(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, AttentionShape,
                             Stream&) override {}
};

class NullNormOps : public NormOps {
  void do_layer_norm_forward(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, Stream&) override {}
  void do_layer_norm_backward_input(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Stream&) override {}
  void do_layer_norm_backward_weight(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, GradientWrite, RandomStream, Stream&) override {}
  void do_rms_norm_forward(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, Stream&) override {}
  void do_rms_norm_backward_input(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Stream&) override {}
  void do_rms_norm_backward_weight(Tensor, Tensor, Tensor, Tensor, GradientWrite, RandomStream, Stream&) override {}
};

class NullElementwiseOps : public ElementwiseOps {
  void do_zero(Tensor, Stream&) override {}
  void do_copy(Tensor, Tensor, Stream&) override {}
  void do_cast(Tensor, Tensor, float, Stream&) override {}
  void do_add(Tensor, Tensor, Tensor, Stream&) override {}
  void do_gelu_forward(Tensor, Tensor, Stream&) override {}
  void do_gelu_backward(Tensor, Tensor, Tensor, Stream&) override {}
  void do_swiglu_forward(Tensor, Tensor, Stream&) override {}
  void do_swiglu_backward(Tensor, Tensor, Tensor, Stream&) override {}
  void do_rotary(Tensor, Tensor, Turn, Stream&) override {}
  void do_ordered_sum(Tensor, Tensor, Stream&) override {}
  void do_embedding_forward(Tensor, Tensor, Tensor, Tensor, int64_t, Stream&) override {}
  void do_token_embedding_backward(Tensor, Tensor, Tensor, Tensor, GradientWrite, RandomStream, Stream&) override {}
  void do_position_embedding_backward(Tensor, Tensor, int64_t, GradientWrite, RandomStream, Stream&) override {}
};

class NullLossOps : public LossOps {
  void do_cross_entropy(Tensor, Tensor, Tensor, float, const StepControl*, Stream&) override {}
  void do_cross_entropy_loss(Tensor, Tensor, Tensor, Stream&) override {}
};

class NullUpdateOps : public UpdateOps {
  void do_update(UpdateRule, const UpdateShard&, std::span<const UpdateSegment>, UpdateHyper, int64_t, const StepControl*,
                 Stream&) override {}
  void do_gradient_norm(StepPartial*, Tensor, const StepControl*, Stream&) override {}
  void do_add_loss(StepPartial*, Tensor, Stream&) override {}
  void do_begin_step(StepPartial*, int32_t, Stream&) override {}
  void do_agree_step(StepControl*, const StepPartial*, int, float, const LossScaling&, Stream&) override {}
};

}  // namespace

std::unique_ptr<MatmulOps> make_null_matmul_ops() { return std::make_unique<NullMatmulOps>(); }
std::unique_ptr<AttentionOps> make_null_attention_ops() { return std::make_unique<NullAttentionOps>(); }
std::unique_ptr<NormOps> make_null_norm_ops() { return std::make_unique<NullNormOps>(); }
std::unique_ptr<ElementwiseOps> make_null_elementwise_ops() { return std::make_unique<NullElementwiseOps>(); }
std::unique_ptr<LossOps> make_null_loss_ops() { return std::make_unique<NullLossOps>(); }
std::unique_ptr<UpdateOps> make_null_update_ops() { return std::make_unique<NullUpdateOps>(); }

}  // namespace tessera
