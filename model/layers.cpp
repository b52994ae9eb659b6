// N rows   H hidden   I inputs   O outputs   S rows of statistics
#include "model/layers.h"

#include "base/error.h"

namespace tessera {

int64_t slot_bytes(const std::vector<KeptTensor>& tensors) {
  int64_t bytes = 0;
  for (const KeptTensor& tensor : tensors) bytes += arena_rounded(bytes_of(tensor.shape, tensor.dtype));
  return bytes;
}

static int find(const UnitDecls& unit, const std::string& name) {
  for (size_t i = 0; i < unit.decls.size(); i++) {
    if (unit.decls[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

int index_of(const UnitDecls& unit, const std::string& name) {
  const int index = find(unit, name);
  invariant(index >= 0, "a unit does not declare a parameter that its sublayer uses");
  return index;
}

void Linear::declare(std::vector<ParamDecl>& decls, const std::vector<Projection>& projections, int64_t inputs, int tp_axis,
                     double init_std, bool biased) {
  const auto adjacent = [&](const Projection& p) { return &p != &projections.front(); };
  for (const Projection& p : projections) {
    decls.push_back({.name = p.name + ".weight",
                     .shape = {p.outputs, inputs},
                     .role = TpRole::Split,
                     .tp_axis = tp_axis,
                     .init = {Init::Kind::Normal, init_std},
                     .decay = true,
                     .linear = true,
                     .adjacent = adjacent(p)});
  }
  if (!biased) return;
  for (const Projection& p : projections) {
    decls.push_back({.name = p.name + ".bias",
                     .shape = {p.outputs},
                     .role = tp_axis == 0 ? TpRole::Split : TpRole::Replicated,
                     .tp_axis = 0,
                     .adjacent = adjacent(p)});
  }
}

Linear::Linear(const UnitDecls& unit, const std::string& name, int count)
    : weight_(index_of(unit, name + ".weight")), bias_(find(unit, name + ".bias")), count_(count) {}

void Linear::forward(Tensor y, Tensor x, const UnitView& unit, PassContext& pass) const {
  pass.device.matmul().linear_forward(y, x, fused(unit.weights, weight_, count_), bias_of(unit.weights), pass.stream,
                                      unit.packed[weight_].forward);
}

void Linear::backward_input(Tensor dx, Tensor dy, const UnitView& unit, PassContext& pass) const {
  pass.device.matmul().linear_backward_input(dx, dy, fused(unit.weights, weight_, count_), pass.stream,
                                             unit.packed[weight_].backward_input);
}

void Linear::backward_weight(Tensor dy, Tensor x, const UnitView& unit, PassContext& pass, uint64_t part) const {
  pass.device.matmul().linear_backward_weight(fused(unit.gradients, weight_, count_), bias_of(unit.gradients), dy, x,
                                              pass.write(unit, weight_, part), pass.rounding(unit.rounding[weight_], part), pass.stream);
}

void Norm::declare(const ModelSpec& spec, const std::string& name, std::vector<ParamDecl>& decls) {
  decls.push_back({.name = name + ".weight", .shape = {spec.hidden}, .init = {Init::Kind::Constant, 1}});
  if (!spec.is_llama()) decls.push_back({.name = name + ".bias", .shape = {spec.hidden}});
}

Norm::Norm(const ModelSpec& spec, const UnitDecls& unit, const std::string& name)
    : weight_(index_of(unit, name + ".weight")), bias_(find(unit, name + ".bias")), epsilon_(static_cast<float>(spec.norm_epsilon)) {}

static Tensor row(const Tensor& statistics, int64_t r) { return statistics.row_range(r, r + 1).flat(); }

void Norm::forward(Tensor h, Tensor n, Tensor statistics, Tensor residual, Tensor delta, const UnitView& unit, PassContext& pass) const {
  NormOps& ops = pass.device.norm();
  const Tensor &weight = unit.weights[weight_], &s = statistics;
  if (bias_ < 0) return ops.rms_norm_forward(h, n, row(s, 0), residual, delta, weight, epsilon_, pass.stream);
  ops.layer_norm_forward(h, n, row(s, 0), row(s, 1), residual, delta, weight, unit.weights[bias_], epsilon_, pass.stream);
}

void Norm::backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor statistics, const UnitView& unit, PassContext& pass) const {
  NormOps& ops = pass.device.norm();
  const Tensor &weight = unit.weights[weight_], &s = statistics;
  if (bias_ < 0) return ops.rms_norm_backward_input(dx, dh, dn, h, row(s, 0), weight, pass.stream);
  ops.layer_norm_backward_input(dx, dh, dn, h, row(s, 0), row(s, 1), weight, pass.stream);
}

void Norm::backward_weight(Tensor dn, Tensor h, Tensor statistics, const UnitView& unit, PassContext& pass) const {
  NormOps& ops = pass.device.norm();
  const Tensor &dweight = unit.gradients[weight_], &s = statistics;
  const RandomStream rounding = pass.rounding(unit.rounding[weight_]);
  const GradientWrite write = pass.write(unit, weight_);
  if (bias_ < 0) return ops.rms_norm_backward_weight(dweight, dn, h, row(s, 0), write, rounding, pass.stream);
  ops.layer_norm_backward_weight(dweight, unit.gradients[bias_], dn, h, row(s, 0), row(s, 1), write, rounding, pass.stream);
}

}  // namespace tessera
