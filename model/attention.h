#pragma once
#include "model/layers.h"
#include "model/sublayer.h"

namespace tessera {

/// delta = OutProj(Attention(QkvProj(norm(residual + delta)))): causal self-attention, pre-norm; with rotary positions and shared key/value
/// heads where the model has them.
class Attention : public Sublayer {
 public:
  Attention(const ModelSpec& spec, const UnitDecls& unit, const std::string& prefix);
  /// Appends the branch's parameters, named "`prefix`attention.norm.weight" and so on.
  static void declare(const ModelSpec& spec, const std::string& prefix, std::vector<ParamDecl>& decls);

  std::vector<KeptTensor> saved(BatchShape shape) const override;
  std::vector<KeptTensor> kept(BatchShape shape) const override;
  void forward(Flow& flow, const UnitView& unit, const KeptTensors& saved, PassContext& pass) const override;
  void backward_input(const Flow& flow, const UnitView& unit, const KeptTensors& saved, const KeptTensors& kept,
                      PassContext& pass) const override;
  void backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& saved, const KeptTensors& kept,
                       PassContext& pass) const override;

 private:
  AttentionShape attention_shape(BatchShape shape) const { return {shape.B, shape.T, spec_.heads, spec_.kv_heads, spec_.head_dim}; }
  void turn(Tensor qkv, Turn turn, PassContext& pass) const;
  ModelSpec spec_;
  Norm norm_;
  Linear qkv_, out_;
};

}  // namespace tessera
