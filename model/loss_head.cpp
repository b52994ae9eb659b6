// n = norm(h);   logits = n W^T;   loss = cross entropy.      N = B T rows   H hidden   V vocabulary   R rows of a chunk
#include "model/loss_head.h"

#include <algorithm>

namespace tessera {

int64_t loss_chunk_rows(int64_t rows, int64_t vocab) {
  constexpr int64_t bytes_max = int64_t{128} << 20;
  int64_t fit = std::max<int64_t>(1, bytes_max / (vocab * bytes_of(DType::f32)));
  if (fit >= 32) fit = fit / 32 * 32;
  return std::min(rows, fit);
}

void LossHead::declare(const ModelSpec& spec, std::vector<ParamDecl>& decls) {
  decls.push_back({.name = "head.norm.weight", .shape = {spec.hidden}, .init = {Init::Kind::Constant, 1}});
  decls.push_back({.name = "head.norm.bias", .shape = {spec.hidden}});
  decls.push_back({.name = "head.weight",
                   .shape = {spec.vocab, spec.hidden},
                   .role = TpRole::Split,
                   .tp_axis = 0,
                   .init = {Init::Kind::Normal, spec.init_std},
                   .decay = true,
                   .tied_to = spec.tied ? "embedding.token.weight" : ""});
}

LossHead::LossHead(const ModelSpec& spec, const UnitDecls& unit)
    : hidden_(spec.hidden),
      vocab_(spec.vocab),
      norm_(index_of(unit, "head.norm.weight"), index_of(unit, "head.norm.bias"), spec.norm_epsilon),
      projection_(index_of(unit, "head.weight"), -1) {}

void LossHead::backward(Tensor dh, Tensor h, Tensor targets, float scale, StepPartial* partial, const UnitView& unit,
                        PassContext& pass) const {
  const int64_t N = h.rows(), chunk = loss_chunk_rows(N, vocab_);
  ScratchScope scratch(pass.device.arena());
  const Tensor n = scratch.take(DType::f32, {N, hidden_}), dn = scratch.take(DType::f32, {N, hidden_});  // [N, H]
  const Tensor mean = scratch.take(DType::f32, {N}), rstd = scratch.take(DType::f32, {N}), losses = scratch.take(DType::f32, {N});
  const Tensor all_logits = scratch.take(DType::f32, {chunk, vocab_}, MemoryCategory::Logits);  // [R, V]
  norm_.forward(h, n, mean, rstd, h, {}, unit, pass);
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t end = std::min(N, begin + chunk);
    const Tensor logits = all_logits.row_range(0, end - begin);
    projection_.forward(logits, n.row_range(begin, end), unit, pass);
    pass.device.loss().cross_entropy(losses.flat_range(begin, end), logits, targets.flat_range(begin, end), scale, pass.stream);
    projection_.backward_input(dn.row_range(begin, end), logits, unit, pass);  // the logits are now their own gradient
    projection_.backward_weight(logits, n.row_range(begin, end), unit, pass);
  }
  pass.device.update().add_loss(partial, losses, pass.stream);
  pass.device.elementwise().zero(dh, pass.stream);  // nothing else reads the final hidden state
  norm_.backward_input(dh, dh, dn, h, mean, rstd, unit, pass);
  norm_.backward_weight(dn, h, mean, rstd, unit, pass);
}

void LossHead::loss(Tensor h, Tensor targets, StepPartial* partial, const UnitView& unit, PassContext& pass) const {
  const int64_t N = h.rows(), chunk = loss_chunk_rows(N, vocab_);
  ScratchScope scratch(pass.device.arena());
  const Tensor losses = scratch.take(DType::f32, {N});
  const Tensor all_logits = scratch.take(DType::f32, {chunk, vocab_}, MemoryCategory::Logits);  // [R, V]
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t end = std::min(N, begin + chunk);
    const Tensor rows = all_logits.row_range(0, end - begin);
    logits(rows, h.row_range(begin, end), unit, pass);
    pass.device.loss().cross_entropy_loss(losses.flat_range(begin, end), rows, targets.flat_range(begin, end), pass.stream);
  }
  pass.device.update().add_loss(partial, losses, pass.stream);
}

void LossHead::logits(Tensor logits, Tensor h, const UnitView& unit, PassContext& pass) const {
  const int64_t R = h.rows();
  ScratchScope scratch(pass.device.arena());
  const Tensor n = scratch.take(DType::f32, {R, hidden_});
  const Tensor mean = scratch.take(DType::f32, {R}), rstd = scratch.take(DType::f32, {R});
  norm_.forward(h, n, mean, rstd, h, {}, unit, pass);
  projection_.forward(logits, n, unit, pass);
}

}  // namespace tessera
