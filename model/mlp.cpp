// h = residual + delta;   n = norm(h);   delta' = DownProj(gelu(UpProj(n)))
// N = B T rows   H hidden   F ffn width.   Weights [out, in], y = x w^T + b.
#include "model/mlp.h"

#include <cmath>

namespace tessera {

namespace {
enum Saved { saved_h, saved_n, saved_mean, saved_rstd, saved_up, saved_act };
enum Kept { kept_dup, kept_dn };
}  // namespace

void Mlp::declare(const ModelSpec& spec, const std::string& prefix, std::vector<ParamDecl>& decls) {
  const int64_t H = spec.hidden, F = spec.ffn;
  const Init normal{Init::Kind::Normal, spec.init_std}, one{Init::Kind::Constant, 1}, zero{};
  const Init residual{Init::Kind::Normal, spec.init_std / std::sqrt(2.0 * static_cast<double>(spec.layers))};
  const std::string p = prefix + "mlp.";
  decls.push_back({.name = p + "norm.weight", .shape = {H}, .init = one});
  decls.push_back({.name = p + "norm.bias", .shape = {H}, .init = zero});
  decls.push_back({.name = p + "up_proj.weight", .shape = {F, H}, .role = TpRole::Split, .tp_axis = 0, .init = normal, .decay = true});
  decls.push_back({.name = p + "up_proj.bias", .shape = {F}, .role = TpRole::Split, .tp_axis = 0, .init = zero});
  decls.push_back({.name = p + "down_proj.weight", .shape = {H, F}, .role = TpRole::Split, .tp_axis = 1, .init = residual, .decay = true});
  decls.push_back({.name = p + "down_proj.bias", .shape = {H}, .init = zero});
}

Mlp::Mlp(const ModelSpec& spec, const UnitDecls& unit, const std::string& prefix)
    : hidden_(spec.hidden),
      ffn_(spec.ffn),
      norm_(index_of(unit, prefix + "mlp.norm.weight"), index_of(unit, prefix + "mlp.norm.bias"), spec.norm_epsilon),
      up_(index_of(unit, prefix + "mlp.up_proj.weight"), index_of(unit, prefix + "mlp.up_proj.bias")),
      down_(index_of(unit, prefix + "mlp.down_proj.weight"), index_of(unit, prefix + "mlp.down_proj.bias")) {}

std::vector<KeptTensor> Mlp::saved(BatchShape shape) const {
  const int64_t N = shape.rows(), H = hidden_, F = ffn_;
  return {{"h", DType::f32, {N, H}}, {"n", DType::f32, {N, H}},  {"mean", DType::f32, {N}},
          {"rstd", DType::f32, {N}}, {"up", DType::f32, {N, F}}, {"act", DType::f32, {N, F}}};
}

std::vector<KeptTensor> Mlp::kept(BatchShape shape) const {
  return {{"dup", DType::f32, {shape.rows(), ffn_}}, {"dn", DType::f32, {shape.rows(), hidden_}}};
}

void Mlp::forward(Flow& flow, const UnitView& unit, const KeptTensors& s, PassContext& pass) const {
  norm_.forward(s[saved_h], s[saved_n], s[saved_mean], s[saved_rstd], flow.residual, flow.delta, unit, pass);  // h, n [N, H]
  up_.forward(s[saved_up], s[saved_n], unit, pass);                                                            // up [N, F]
  pass.device.elementwise().gelu_forward(s[saved_act], s[saved_up], pass.stream);                              // act [N, F]
  down_.forward(flow.delta_buffer, s[saved_act], unit, pass);                                                  // delta [N, H]
  flow.residual = s[saved_h];
  flow.delta = flow.delta_buffer;
}

void Mlp::backward_input(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k, PassContext& pass) const {
  down_.backward_input(k[kept_dup], flow.gradient, unit, pass);                                 // d act [N, F]
  pass.device.elementwise().gelu_backward(k[kept_dup], k[kept_dup], s[saved_up], pass.stream);  // d up [N, F], in place
  up_.backward_input(k[kept_dn], k[kept_dup], unit, pass);                                      // dn [N, H]
  norm_.backward_input(flow.next_gradient, flow.gradient, k[kept_dn], s[saved_h], s[saved_mean], s[saved_rstd], unit, pass);
}

void Mlp::backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k, PassContext& pass) const {
  down_.backward_weight(flow.gradient, s[saved_act], unit, pass);
  up_.backward_weight(k[kept_dup], s[saved_n], unit, pass);
  norm_.backward_weight(k[kept_dn], s[saved_h], s[saved_mean], s[saved_rstd], unit, pass);
}

}  // namespace tessera
