#include "model/decls.h"

#include "model/attention.h"
#include "model/embedding.h"
#include "model/loss_head.h"
#include "model/mlp.h"

namespace tessera {

std::vector<UnitDecls> declare_model(const ModelSpec& spec) {
  std::vector<UnitDecls> units;
  units.push_back({"embedding", {}});
  Embedding::declare(spec, units.back().decls);
  for (int64_t layer = 0; layer < spec.layers; layer++) {
    const std::string name = "blocks." + std::to_string(layer);
    units.push_back({name, {}});
    Attention::declare(spec, name + ".", units.back().decls);
    Mlp::declare(spec, name + ".", units.back().decls);
  }
  units.push_back({"head", {}});
  LossHead::declare(spec, units.back().decls);
  return units;
}

int64_t parameter_count(const std::vector<UnitDecls>& units) {
  int64_t count = 0;
  for (const UnitDecls& unit : units) {
    for (const ParamDecl& decl : unit.decls) count += decl.tied_to.empty() ? decl.shape.elements() : 0;
  }
  return count;
}

int64_t lecture_parameter_count(const ModelSpec& spec) { return 12 * spec.layers * spec.hidden * spec.hidden + 2 * spec.vocab * spec.hidden; }

}  // namespace tessera
