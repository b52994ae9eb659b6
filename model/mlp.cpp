// h = residual + delta;   n = norm(h);   delta' = DownProj(activation(UpProj(n)))
// N = B T rows   H hidden   F ffn width   U = F (GELU) or 2 F (SwiGLU: gate | up)   S rows of statistics.   Weights [out, in].
#include "model/mlp.h"

namespace tessera {

namespace {
enum Saved { saved_h, saved_n, saved_statistics, saved_up, saved_act };
enum Kept { kept_dup, kept_dn };
}  // namespace

void Mlp::declare(const ModelSpec& spec, const std::string& prefix, std::vector<ParamDecl>& decls) {
  const std::string p = prefix + "mlp.";
  const int64_t H = spec.hidden, F = spec.ffn;
  const bool biased = !spec.is_llama();
  Norm::declare(spec, p + "norm", decls);
  if (spec.is_llama()) {
    Linear::declare(decls, {{p + "gate_proj", F}, {p + "up_proj", F}}, H, 0, spec.init_std, biased);
  } else {
    Linear::declare(decls, {{p + "up_proj", F}}, H, 0, spec.init_std, biased);
  }
  Linear::declare(decls, {{p + "down_proj", H}}, F, 1, spec.residual_init_std(), biased);
}

Mlp::Mlp(const ModelSpec& spec, const UnitDecls& unit, const std::string& prefix)
    : spec_(spec),
      norm_(spec, unit, prefix + "mlp.norm"),
      up_(spec.is_llama() ? Linear(unit, prefix + "mlp.gate_proj", 2) : Linear(unit, prefix + "mlp.up_proj")),
      down_(unit, prefix + "mlp.down_proj") {}

std::vector<KeptTensor> Mlp::saved(BatchShape shape) const {
  const int64_t N = shape.rows(), H = spec_.hidden;
  return {{"h", shape.dtype, {N, H}},
          {"n", shape.dtype, {N, H}},
          {"statistics", DType::f32, {Norm::statistics(spec_), N}},
          {"up", shape.dtype, {N, up_width()}},
          {"act", shape.dtype, {N, spec_.ffn}}};
}

std::vector<KeptTensor> Mlp::kept(BatchShape shape) const {
  return {{"dup", shape.dtype, {shape.rows(), up_width()}}, {"dn", shape.dtype, {shape.rows(), spec_.hidden}}};
}

void Mlp::forward(Flow& flow, const UnitView& unit, const KeptTensors& s, PassContext& pass) const {
  ElementwiseOps& ops = pass.device.elementwise();
  norm_.forward(s[saved_h], s[saved_n], s[saved_statistics], flow.residual, flow.delta, unit, pass);  // h, n [N, H]
  up_.forward(s[saved_up], s[saved_n], unit, pass);                                                   // up [N, U]
  if (spec_.is_llama()) {
    ops.swiglu_forward(s[saved_act], s[saved_up], pass.stream);  // act [N, F]
  } else {
    ops.gelu_forward(s[saved_act], s[saved_up], pass.stream);
  }
  down_.forward(flow.delta_buffer, s[saved_act], unit, pass);  // delta [N, H]
  flow.residual = s[saved_h];
  flow.delta = flow.delta_buffer;
}

void Mlp::backward_input(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k, PassContext& pass) const {
  ElementwiseOps& ops = pass.device.elementwise();
  if (spec_.is_llama()) {
    ScratchScope scratch(pass.device.arena());
    const Tensor dact = scratch.take(pass.shape.dtype, {pass.shape.rows(), spec_.ffn});  // [N, F]
    down_.backward_input(dact, flow.gradient, unit, pass);
    ops.swiglu_backward(k[kept_dup], dact, s[saved_up], pass.stream);  // d gate | d up [N, 2 F]
  } else {
    down_.backward_input(k[kept_dup], flow.gradient, unit, pass);           // d act [N, F]
    ops.gelu_backward(k[kept_dup], k[kept_dup], s[saved_up], pass.stream);  // d up [N, F], in place
  }
  up_.backward_input(k[kept_dn], k[kept_dup], unit, pass);  // dn [N, H]
  norm_.backward_input(flow.next_gradient, flow.gradient, k[kept_dn], s[saved_h], s[saved_statistics], unit, pass);
}

void Mlp::backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k, PassContext& pass) const {
  down_.backward_weight(flow.gradient, s[saved_act], unit, pass);
  up_.backward_weight(k[kept_dup], s[saved_n], unit, pass);
  norm_.backward_weight(k[kept_dn], s[saved_h], s[saved_statistics], unit, pass);
}

}  // namespace tessera
