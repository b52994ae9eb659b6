#include "model/layers.h"

#include "base/error.h"

namespace tessera {

int64_t slot_bytes(const std::vector<KeptTensor>& tensors) {
  int64_t bytes = 0;
  for (const KeptTensor& tensor : tensors) bytes += arena_rounded(tensor.shape.elements() * bytes_of(tensor.dtype));
  return bytes;
}

int index_of(const UnitDecls& unit, const std::string& name) {
  for (size_t i = 0; i < unit.decls.size(); i++) {
    if (unit.decls[i].name == name) return static_cast<int>(i);
  }
  throw InternalError("unit " + unit.name + " declares no parameter " + name);
}

void Linear::forward(Tensor y, Tensor x, const UnitView& unit, PassContext& pass) const {
  pass.device.matmul().linear_forward(y, x, fused(unit.weights, weight_, count_), bias_of(unit.weights), pass.stream);
}

void Linear::backward_input(Tensor dx, Tensor dy, const UnitView& unit, PassContext& pass) const {
  pass.device.matmul().linear_backward_input(dx, dy, fused(unit.weights, weight_, count_), pass.stream);
}

void Linear::backward_weight(Tensor dy, Tensor x, const UnitView& unit, PassContext& pass) const {
  pass.device.matmul().linear_backward_weight(fused(unit.gradients, weight_, count_), bias_of(unit.gradients), dy, x, pass.stream);
}

void Norm::forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, const UnitView& unit,
                   PassContext& pass) const {
  pass.device.norm().layer_norm_forward(h, n, mean, rstd, residual, delta, unit.weights[weight_], unit.weights[bias_], epsilon_,
                                        pass.stream);
}

void Norm::backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, const UnitView& unit,
                          PassContext& pass) const {
  pass.device.norm().layer_norm_backward_input(dx, dh, dn, h, mean, rstd, unit.weights[weight_], pass.stream);
}

void Norm::backward_weight(Tensor dn, Tensor h, Tensor mean, Tensor rstd, const UnitView& unit, PassContext& pass) const {
  pass.device.norm().layer_norm_backward_weight(unit.gradients[weight_], unit.gradients[bias_], dn, h, mean, rstd, pass.stream);
}

}  // namespace tessera
