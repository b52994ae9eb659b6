#pragma once
#include "model/layers.h"
#include "model/sublayer.h"

namespace tessera {

/// delta = DownProj(activation(UpProj(norm(residual + delta)))), pre-norm. gpt2: GELU of one projection. llama: SwiGLU of two, gate and up,
/// fused into one matmul.
class Mlp : public Sublayer {
 public:
  Mlp(const ModelSpec& spec, const UnitDecls& unit, const std::string& prefix);
  /// Appends the branch's parameters, named "`prefix`mlp.norm.weight" and so on.
  static void declare(const ModelSpec& spec, const std::string& prefix, std::vector<ParamDecl>& decls);

  std::vector<KeptTensor> saved(BatchShape shape) const override;
  std::vector<KeptTensor> kept(BatchShape shape) const override;
  void forward(Flow& flow, const UnitView& unit, const KeptTensors& saved, PassContext& pass) const override;
  void backward_input(const Flow& flow, const UnitView& unit, const KeptTensors& saved, const KeptTensors& kept,
                      PassContext& pass) const override;
  void backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& saved, const KeptTensors& kept,
                       PassContext& pass) const override;

 private:
  int64_t up_width() const { return spec_.is_llama() ? 2 * spec_.ffn : spec_.ffn; }
  ModelSpec spec_;
  Norm norm_;
  Linear up_, down_;
};

}  // namespace tessera
