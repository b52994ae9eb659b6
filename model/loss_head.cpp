// n = norm(h);   logits = n W^T;   loss = cross entropy.      N = B T rows   H hidden   V vocabulary   R rows of a chunk
#include "model/loss_head.h"

#include <algorithm>

namespace tessera {

int64_t loss_chunk_rows(int64_t rows, int64_t vocab, DType dtype) {
  constexpr int64_t bytes_max = int64_t{128} << 20;
  int64_t fit = std::max<int64_t>(1, bytes_max / (vocab * bytes_of(dtype)));
  if (fit >= 32) fit = fit / 32 * 32;
  return std::min(rows, fit);
}

void LossHead::declare(const ModelSpec& spec, std::vector<ParamDecl>& decls) {
  Norm::declare(spec, "head.norm", decls);
  decls.push_back({.name = "head.weight",
                   .shape = {spec.vocab, spec.hidden},
                   .role = TpRole::Split,
                   .tp_axis = 0,
                   .init = {Init::Kind::Normal, spec.init_std},
                   .decay = true,
                   .linear = true,
                   .tied_to = spec.tied ? "embedding.token.weight" : ""});
}

LossHead::LossHead(const ModelSpec& spec, const UnitDecls& unit) : spec_(spec), norm_(spec, unit, "head.norm"), projection_(unit, "head") {}

void LossHead::backward(Tensor dh, Tensor h, Tensor targets, float token_weight, StepPartial* partial, const UnitView& unit,
                        PassContext& pass) const {
  const int64_t N = h.rows(), H = spec_.hidden, V = spec_.vocab, chunk = loss_chunk_rows(N, V, h.dtype);
  ScratchScope scratch(pass.device.arena());
  const Tensor n = scratch.take(h.dtype, {N, H}), dn = scratch.take(h.dtype, {N, H});
  const Tensor statistics = scratch.take(DType::f32, {Norm::statistics(spec_), N}), losses = scratch.take(DType::f32, {N});
  const Tensor all_logits = scratch.take(h.dtype, {chunk, V}, MemoryCategory::Logits);  // [R, V]
  norm_.forward(h, n, statistics, h, {}, unit, pass);
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t end = std::min(N, begin + chunk);
    const Tensor logits = all_logits.row_range(0, end - begin);
    projection_.forward(logits, n.row_range(begin, end), unit, pass);
    pass.device.loss().cross_entropy(losses.flat_range(begin, end), logits, targets.flat_range(begin, end), token_weight, pass.control,
                                     pass.stream);
    projection_.backward_input(dn.row_range(begin, end), logits, unit, pass);  // the logits are now their own gradient
    projection_.backward_weight(logits, n.row_range(begin, end), unit, pass, static_cast<uint64_t>(begin / chunk));
  }
  pass.device.update().add_loss(partial, losses, pass.stream);
  pass.device.elementwise().zero(dh, pass.stream);  // nothing else reads the final hidden state
  norm_.backward_input(dh, dh, dn, h, statistics, unit, pass);
  norm_.backward_weight(dn, h, statistics, unit, pass);
}

void LossHead::loss(Tensor h, Tensor targets, StepPartial* partial, const UnitView& unit, PassContext& pass) const {
  const int64_t N = h.rows(), chunk = loss_chunk_rows(N, spec_.vocab, h.dtype);
  ScratchScope scratch(pass.device.arena());
  const Tensor losses = scratch.take(DType::f32, {N});
  const Tensor all_logits = scratch.take(h.dtype, {chunk, spec_.vocab}, MemoryCategory::Logits);  // [R, V]
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
  const Tensor n = scratch.take(h.dtype, {R, spec_.hidden});  // [R, H]
  const Tensor statistics = scratch.take(DType::f32, {Norm::statistics(spec_), R});
  norm_.forward(h, n, statistics, h, {}, unit, pass);
  projection_.forward(logits, n, unit, pass);
}

}  // namespace tessera
