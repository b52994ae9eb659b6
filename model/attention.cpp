// h = residual + delta;   n = norm(h);   delta' = OutProj(Attention(QkvProj(n)))
// N = B T rows   H hidden   A heads   D head width   W = A D.   Weights [out, in], y = x w^T + b.
#include "model/attention.h"

#include <cmath>

namespace tessera {

namespace {
enum Saved { saved_h, saved_n, saved_mean, saved_rstd, saved_qkv, saved_att, saved_lse };
enum Kept { kept_dqkv, kept_dn };

/// q, k and v side by side in [N, 3 W].
struct Qkv {
  Tensor q, k, v;
  explicit Qkv(const Tensor& qkv) {
    const int64_t W = qkv.columns() / 3;
    q = qkv.column_range(0, W);
    k = qkv.column_range(W, 2 * W);
    v = qkv.column_range(2 * W, 3 * W);
  }
};
}  // namespace

void Attention::declare(const ModelSpec& spec, const std::string& prefix, std::vector<ParamDecl>& decls) {
  const int64_t H = spec.hidden, W = spec.attention_width();
  const Init normal{Init::Kind::Normal, spec.init_std}, one{Init::Kind::Constant, 1}, zero{};
  const Init residual{Init::Kind::Normal, spec.init_std / std::sqrt(2.0 * static_cast<double>(spec.layers))};
  const std::string p = prefix + "attention.";
  decls.push_back({.name = p + "norm.weight", .shape = {H}, .init = one});
  decls.push_back({.name = p + "norm.bias", .shape = {H}, .init = zero});
  for (const char* name : {"q", "k", "v"}) {
    decls.push_back({.name = p + name + "_proj.weight",
                     .shape = {W, H},
                     .role = TpRole::Split,
                     .tp_axis = 0,
                     .init = normal,
                     .decay = true,
                     .adjacent = *name != 'q'});
  }
  for (const char* name : {"q", "k", "v"}) {
    decls.push_back(
        {.name = p + name + "_proj.bias", .shape = {W}, .role = TpRole::Split, .tp_axis = 0, .init = zero, .adjacent = *name != 'q'});
  }
  decls.push_back({.name = p + "out_proj.weight", .shape = {H, W}, .role = TpRole::Split, .tp_axis = 1, .init = residual, .decay = true});
  decls.push_back({.name = p + "out_proj.bias", .shape = {H}, .init = zero});
}

Attention::Attention(const ModelSpec& spec, const UnitDecls& unit, const std::string& prefix)
    : hidden_(spec.hidden),
      heads_(spec.heads),
      head_dim_(spec.head_dim),
      norm_(index_of(unit, prefix + "attention.norm.weight"), index_of(unit, prefix + "attention.norm.bias"), spec.norm_epsilon),
      qkv_(index_of(unit, prefix + "attention.q_proj.weight"), index_of(unit, prefix + "attention.q_proj.bias"), 3),
      out_(index_of(unit, prefix + "attention.out_proj.weight"), index_of(unit, prefix + "attention.out_proj.bias")) {}

std::vector<KeptTensor> Attention::saved(BatchShape shape) const {
  const int64_t N = shape.rows(), H = hidden_, W = heads_ * head_dim_;
  return {{"h", DType::f32, {N, H}},
          {"n", DType::f32, {N, H}},
          {"mean", DType::f32, {N}},
          {"rstd", DType::f32, {N}},
          {"qkv", DType::f32, {N, 3 * W}},
          {"att", DType::f32, {N, W}},
          {"lse", DType::f32, {shape.B, heads_, shape.T}}};
}

std::vector<KeptTensor> Attention::kept(BatchShape shape) const {
  return {{"dqkv", DType::f32, {shape.rows(), 3 * heads_ * head_dim_}}, {"dn", DType::f32, {shape.rows(), hidden_}}};
}

void Attention::forward(Flow& flow, const UnitView& unit, const KeptTensors& s, PassContext& pass) const {
  norm_.forward(s[saved_h], s[saved_n], s[saved_mean], s[saved_rstd], flow.residual, flow.delta, unit, pass);  // h, n [N, H]
  qkv_.forward(s[saved_qkv], s[saved_n], unit, pass);                                                          // qkv [N, 3 W]
  const Qkv in(s[saved_qkv]);
  pass.device.attention().attention_forward(s[saved_att], s[saved_lse], in.q, in.k, in.v, attention_shape(pass.shape),
                                            pass.stream);     // att [N, W]
  out_.forward(flow.delta_buffer, s[saved_att], unit, pass);  // delta [N, H]
  flow.residual = s[saved_h];
  flow.delta = flow.delta_buffer;
}

void Attention::backward_input(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k,
                               PassContext& pass) const {
  const AttentionShape shape = attention_shape(pass.shape);
  {
    ScratchScope scratch(pass.device.arena());
    const Tensor datt = scratch.take(DType::f32, {pass.shape.rows(), shape.A * shape.D});  // [N, W]
    const Tensor row_sums = scratch.take(DType::f32, {shape.B, shape.A, shape.T});
    out_.backward_input(datt, flow.gradient, unit, pass);
    const Qkv in(s[saved_qkv]), out(k[kept_dqkv]);
    pass.device.attention().attention_backward(out.q, out.k, out.v, row_sums, datt, in.q, in.k, in.v, s[saved_att], s[saved_lse], shape,
                                               pass.stream);
  }
  qkv_.backward_input(k[kept_dn], k[kept_dqkv], unit, pass);  // dn [N, H]
  norm_.backward_input(flow.next_gradient, flow.gradient, k[kept_dn], s[saved_h], s[saved_mean], s[saved_rstd], unit, pass);
}

void Attention::backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k,
                                PassContext& pass) const {
  out_.backward_weight(flow.gradient, s[saved_att], unit, pass);
  qkv_.backward_weight(k[kept_dqkv], s[saved_n], unit, pass);
  norm_.backward_weight(k[kept_dn], s[saved_h], s[saved_mean], s[saved_rstd], unit, pass);
}

}  // namespace tessera
