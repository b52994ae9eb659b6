#pragma once
#include "model/layers.h"

namespace tessera {

/// h = token_weight[token], and + position_weight[position] where positions are learned.
class Embedding {
 public:
  Embedding(const ModelSpec& spec, const UnitDecls& unit);
  static void declare(const ModelSpec& spec, std::vector<ParamDecl>& decls);
  /// h [N, H], tokens [N]
  void forward(Tensor h, Tensor tokens, const UnitView& unit, PassContext& pass) const;
  /// To the gradients of both weights (pass.write).   dh [N, H], tokens [N], order [N]: rows sorted stably by token (tokenizer/token_index.h).
  void backward_weight(Tensor dh, Tensor tokens, Tensor order, const UnitView& unit, PassContext& pass) const;

 private:
  int token_, position_;  // position -1: rotary
};

}  // namespace tessera
