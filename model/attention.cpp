// h = residual + delta;   n = norm(h);   delta' = OutProj(Attention(QkvProj(n)))
// N = B T rows   H hidden   A heads   K key/value heads   D head width   W = A D   S rows of statistics.   Weights [out, in].
#include "model/attention.h"

#include <cmath>

namespace tessera {

namespace {
enum Saved { saved_h, saved_n, saved_statistics, saved_qkv, saved_att, saved_lse };
enum Kept { kept_dqkv, kept_dn };

/// q, k and v side by side in [N, (A + 2 K) D].
struct Qkv {
  Tensor q, k, v;
  Qkv(const Tensor& qkv, const ModelSpec& spec) {
    const int64_t W = spec.attention_width(), KD = spec.kv_width();
    q = qkv.column_range(0, W);
    k = qkv.column_range(W, W + KD);
    v = qkv.column_range(W + KD, W + 2 * KD);
  }
};
}  // namespace

void Attention::declare(const ModelSpec& spec, const std::string& prefix, std::vector<ParamDecl>& decls) {
  const std::string p = prefix + "attention.";
  const int64_t H = spec.hidden, W = spec.attention_width(), KD = spec.kv_width();
  const bool biased = !spec.is_llama();
  Norm::declare(spec, p + "norm", decls);
  Linear::declare(decls, {{p + "q_proj", W}, {p + "k_proj", KD}, {p + "v_proj", KD}}, H, 0, spec.init_std, biased);
  Linear::declare(decls, {{p + "out_proj", H}}, W, 1, spec.residual_init_std(), biased);
}

Attention::Attention(const ModelSpec& spec, const UnitDecls& unit, const std::string& prefix)
    : spec_(spec),
      norm_(spec, unit, prefix + "attention.norm"),
      qkv_(unit, prefix + "attention.q_proj", 3),
      out_(unit, prefix + "attention.out_proj") {}

std::vector<KeptTensor> Attention::saved(BatchShape shape) const {
  const int64_t N = shape.rows(), H = spec_.hidden, W = spec_.attention_width();
  return {{"h", shape.dtype, {N, H}},
          {"n", shape.dtype, {N, H}},
          {"statistics", DType::f32, {Norm::statistics(spec_), N}},
          {"qkv", shape.dtype, {N, W + 2 * spec_.kv_width()}},
          {"att", shape.dtype, {N, W}},
          {"lse", DType::f32, {shape.B, spec_.heads, shape.T}}};
}

std::vector<KeptTensor> Attention::kept(BatchShape shape) const {
  const int64_t N = shape.rows();
  return {{"dqkv", shape.dtype, {N, spec_.attention_width() + 2 * spec_.kv_width()}}, {"dn", shape.dtype, {N, spec_.hidden}}};
}

/// Queries and keys stand side by side and turn alike.
void Attention::turn(Tensor qkv, Turn turn, PassContext& pass) const {
  if (pass.rotary.empty()) return;
  const Tensor qk = qkv.column_range(0, spec_.attention_width() + spec_.kv_width());  // [N, (A + K) D]
  pass.device.elementwise().rotary(qk, pass.rotary, turn, pass.stream);
}

void Attention::forward(Flow& flow, const UnitView& unit, const KeptTensors& s, PassContext& pass) const {
  norm_.forward(s[saved_h], s[saved_n], s[saved_statistics], flow.residual, flow.delta, unit, pass);  // h, n [N, H]
  qkv_.forward(s[saved_qkv], s[saved_n], unit, pass);                                                 // qkv [N, (A + 2 K) D]
  turn(s[saved_qkv], Turn::Forward, pass);
  const Qkv in(s[saved_qkv], spec_);
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
    const Tensor datt = scratch.take(pass.shape.dtype, {pass.shape.rows(), shape.A * shape.D});  // [N, W]
    const Tensor row_sums = scratch.take(DType::f32, {shape.B, shape.A, shape.T});
    out_.backward_input(datt, flow.gradient, unit, pass);
    const Qkv in(s[saved_qkv], spec_), out(k[kept_dqkv], spec_);
    pass.device.attention().attention_backward(out.q, out.k, out.v, row_sums, datt, in.q, in.k, in.v, s[saved_att], s[saved_lse], shape,
                                               pass.stream);
  }
  turn(k[kept_dqkv], Turn::Backward, pass);
  qkv_.backward_input(k[kept_dn], k[kept_dqkv], unit, pass);  // dn [N, H]
  norm_.backward_input(flow.next_gradient, flow.gradient, k[kept_dn], s[saved_h], s[saved_statistics], unit, pass);
}

void Attention::backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& s, const KeptTensors& k,
                                PassContext& pass) const {
  out_.backward_weight(flow.gradient, s[saved_att], unit, pass);
  qkv_.backward_weight(k[kept_dqkv], s[saved_n], unit, pass);
  norm_.backward_weight(k[kept_dn], s[saved_h], s[saved_statistics], unit, pass);
}

}  // namespace tessera
