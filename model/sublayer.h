#pragma once
#include <vector>

#include "model/pass.h"

namespace tessera {

/// A residual branch with its norm: Attention, Mlp. Input and weight gradients are separate, because zero-bubble pipelines need them so.
class Sublayer {
 public:
  virtual ~Sublayer() = default;
  /// What forward keeps for backward.
  virtual std::vector<KeptTensor> saved(BatchShape shape) const = 0;
  /// What backward_input leaves for backward_weight.
  virtual std::vector<KeptTensor> kept(BatchShape shape) const = 0;

  /// flow.residual becomes h = residual + delta, flow.delta this branch's output.
  virtual void forward(Flow& flow, const UnitView& unit, const KeptTensors& saved, PassContext& pass) const = 0;
  /// flow.next_gradient = flow.gradient + what the branch sends back.
  virtual void backward_input(const Flow& flow, const UnitView& unit, const KeptTensors& saved, const KeptTensors& kept,
                              PassContext& pass) const = 0;
  /// The branch's weight gradients, added or written first (pass.write); flow.gradient as backward_input saw it.
  virtual void backward_weight(const Flow& flow, const UnitView& unit, const KeptTensors& saved, const KeptTensors& kept,
                               PassContext& pass) const = 0;
};

}  // namespace tessera
