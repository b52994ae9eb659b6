#pragma once
#include <string>

#include "model/pass.h"

namespace tessera {

/// y = x W^T + b over `count` adjacent parameters fused into one. All matmuls of the model go through here.
/// `weight` and `bias` are indices into the unit's declarations; bias -1: none.
class Linear {
 public:
  Linear(int weight, int bias, int count = 1) : weight_(weight), bias_(bias), count_(count) {}
  /// y [N, O], x [N, I]
  void forward(Tensor y, Tensor x, const UnitView& unit, PassContext& pass) const;
  /// dx [N, I] = dy [N, O] W
  void backward_input(Tensor dx, Tensor dy, const UnitView& unit, PassContext& pass) const;
  /// Adds dy^T x, and the sum of dy over N, to the gradients.   dy [N, O], x [N, I]
  void backward_weight(Tensor dy, Tensor x, const UnitView& unit, PassContext& pass) const;

 private:
  Tensor bias_of(const std::vector<Tensor>& tensors) const { return bias_ < 0 ? Tensor() : fused(tensors, bias_, count_); }
  int weight_, bias_, count_;
};

/// LayerNorm fused with the residual add. `weight` and `bias` are indices into the unit's declarations.
class Norm {
 public:
  Norm(int weight, int bias, double epsilon) : weight_(weight), bias_(bias), epsilon_(static_cast<float>(epsilon)) {}
  /// h = residual + delta, n = norm(h).   h, n [N, H]; mean, rstd [N]
  void forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, const UnitView& unit, PassContext& pass) const;
  /// dx = dh + what dn sends back through the norm.   dx, dh, dn, h [N, H]; dx may be dh
  void backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, const UnitView& unit, PassContext& pass) const;
  /// Adds to the gradients of weight and bias.
  void backward_weight(Tensor dn, Tensor h, Tensor mean, Tensor rstd, const UnitView& unit, PassContext& pass) const;

 private:
  int weight_, bias_;
  float epsilon_;
};

/// Index of the declaration `name` in a unit; InternalError when it has none.
int index_of(const UnitDecls& unit, const std::string& name);

}  // namespace tessera
