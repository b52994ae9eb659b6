// N = B T rows   H hidden   V vocabulary   P context: the most positions.
#include "model/embedding.h"

namespace tessera {

void Embedding::declare(const ModelSpec& spec, std::vector<ParamDecl>& decls) {
  const Init normal{Init::Kind::Normal, spec.init_std};
  decls.push_back({.name = "embedding.token.weight",
                   .shape = {spec.vocab, spec.hidden},
                   .role = TpRole::Split,
                   .tp_axis = 0,
                   .init = normal,
                   .decay = true});
  if (spec.is_llama()) return;
  decls.push_back({.name = "embedding.position.weight", .shape = {spec.context, spec.hidden}, .init = normal, .decay = true});
}

Embedding::Embedding(const ModelSpec& spec, const UnitDecls& unit)
    : token_(index_of(unit, "embedding.token.weight")), position_(spec.is_llama() ? -1 : index_of(unit, "embedding.position.weight")) {}

void Embedding::forward(Tensor h, Tensor tokens, const UnitView& unit, PassContext& pass) const {
  const Tensor position = position_ < 0 ? Tensor() : unit.weights[position_];
  pass.device.elementwise().embedding_forward(h, tokens, unit.weights[token_], position, pass.shape.T, pass.stream);
}

void Embedding::backward_weight(Tensor dh, Tensor tokens, Tensor order, const UnitView& unit, PassContext& pass) const {
  ElementwiseOps& ops = pass.device.elementwise();
  ops.token_embedding_backward(unit.gradients[token_], dh, tokens, order, pass.write(unit, token_), pass.rounding(unit.rounding[token_]),
                               pass.stream);
  if (position_ < 0) return;
  ops.position_embedding_backward(unit.gradients[position_], dh, pass.shape.T, pass.write(unit, position_),
                                  pass.rounding(unit.rounding[position_]), pass.stream);
}

}  // namespace tessera
