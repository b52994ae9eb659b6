#include "model/decls.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
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

StageRange stage_range(const ModelSpec& spec, int chunk, int chunks) {
  if (chunks > spec.layers) {
    throw ConfigError({fmt::format("parallel.pp = {} needs at least as many blocks, but model.layers = {}", chunks, spec.layers),
                       "[parallel]",
                       fmt::format("1 to {}", spec.layers),
                       {}});
  }
  // The remainder goes to the middle: chunks from `extra_begin` on hold one block more.
  const int64_t each = spec.layers / chunks, extra = spec.layers % chunks, extra_begin = (chunks - extra) / 2;
  const auto begin_of = [&](int64_t c) { return c * each + std::clamp<int64_t>(c - extra_begin, 0, extra); };
  return {begin_of(chunk), begin_of(chunk + 1), chunk == 0, chunk == chunks - 1};
}

int64_t parameter_count(const std::vector<UnitDecls>& units) {
  int64_t count = 0;
  for (const UnitDecls& unit : units) {
    for (const ParamDecl& decl : unit.decls) count += decl.tied_to.empty() ? decl.shape.elements() : 0;
  }
  return count;
}

int64_t lecture_parameter_count(const ModelSpec& spec) {
  return 12 * spec.layers * spec.hidden * spec.hidden + 2 * spec.vocab * spec.hidden;
}

}  // namespace tessera
