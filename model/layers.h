#pragma once
#include <string>
#include <vector>

#include "model/pass.h"

namespace tessera {

/// y = x W^T + b over `count` adjacent parameters fused into one. All matmuls of the model go through here.
class Linear {
 public:
  /// What a projection declares: `NAME.weight` [outputs, inputs] and, where biased, `NAME.bias` [outputs].
  struct Projection {
    std::string name;
    int64_t outputs;
  };
  /// Appends the weights, then the biases, of projections that read the same input; they are adjacent, so that one Linear covers them.
  /// tp_axis: 0 splits outputs, 1 splits inputs (then the bias is whole).
  static void declare(std::vector<ParamDecl>& decls, const std::vector<Projection>& projections, int64_t inputs, int tp_axis,
                      double init_std, bool biased);

  /// `name`: the first projection's. It has a bias where the unit declares one.
  Linear(const UnitDecls& unit, const std::string& name, int count = 1);
  /// y [N, O], x [N, I]
  void forward(Tensor y, Tensor x, const UnitView& unit, PassContext& pass) const;
  /// dx [N, I] = dy [N, O] W
  void backward_input(Tensor dx, Tensor dy, const UnitView& unit, PassContext& pass) const;
  /// dy^T x, and the sum of dy over N, to the gradients (pass.write).   dy [N, O], x [N, I]; `part`: which part of the pass's rows
  void backward_weight(Tensor dy, Tensor x, const UnitView& unit, PassContext& pass, uint64_t part = 0) const;

 private:
  Tensor bias_of(const std::vector<Tensor>& tensors) const { return bias_ < 0 ? Tensor() : fused(tensors, bias_, count_); }
  int weight_, bias_, count_;
};

/// LayerNorm (gpt2) or RMSNorm (llama), fused with the residual add.
class Norm {
 public:
  /// `name`: "blocks.0.attention.norm".
  static void declare(const ModelSpec& spec, const std::string& name, std::vector<ParamDecl>& decls);
  Norm(const ModelSpec& spec, const UnitDecls& unit, const std::string& name);

  /// Rows S of the statistics [S, N] fp32 that forward leaves for backward: mean and rstd, or rstd alone.
  static int64_t statistics(const ModelSpec& spec) { return spec.is_llama() ? 1 : 2; }
  /// h = residual + delta, n = norm(h).   h, n [N, H]; statistics [S, N]
  void forward(Tensor h, Tensor n, Tensor statistics, Tensor residual, Tensor delta, const UnitView& unit, PassContext& pass) const;
  /// dx = dh + what dn sends back through the norm.   dx, dh, dn, h [N, H]; dx may be dh
  void backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor statistics, const UnitView& unit, PassContext& pass) const;
  /// To the gradients of weight and bias (pass.write).
  void backward_weight(Tensor dn, Tensor h, Tensor statistics, const UnitView& unit, PassContext& pass) const;

 private:
  int weight_, bias_;  // bias -1: RMSNorm
  float epsilon_;
};

/// Index of the declaration `name` in a unit; InternalError when it has none.
int index_of(const UnitDecls& unit, const std::string& name);

}  // namespace tessera
