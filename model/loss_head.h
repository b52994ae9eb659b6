#pragma once
#include "model/layers.h"

namespace tessera {

/// Rows whose logits are held at once: so many that they take at most 128 MiB, a multiple of 32 where that leaves any;
/// at least one and at most `rows`.
int64_t loss_chunk_rows(int64_t rows, int64_t vocab, DType dtype);

/// Final norm, projection to the vocabulary, softmax cross-entropy: in row chunks, so that logits memory is bounded and nothing is kept
/// between forward and backward. The loss belongs to the backward.
class LossHead {
 public:
  LossHead(const ModelSpec& spec, const UnitDecls& unit);
  static void declare(const ModelSpec& spec, std::vector<ParamDecl>& decls);

  /// Loss and all gradients: dh [N, H], overwritten, of the final hidden state h [N, H]; targets [N]; each token's loss
  /// counts `token_weight` in the gradient (and the loss scale), and is added as it is to partial.
  void backward(Tensor dh, Tensor h, Tensor targets, float token_weight, StepPartial* partial, const UnitView& unit,
                PassContext& pass) const;
  /// The loss alone, added to partial.
  void loss(Tensor h, Tensor targets, StepPartial* partial, const UnitView& unit, PassContext& pass) const;
  /// logits [R, V] of rows h [R, H].
  void logits(Tensor logits, Tensor h, const UnitView& unit, PassContext& pass) const;

 private:
  ModelSpec spec_;
  Norm norm_;
  Linear projection_;
};

}  // namespace tessera
