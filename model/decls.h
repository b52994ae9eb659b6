#pragma once
#include <cstdint>
#include <vector>

#include "model/spec.h"
#include "parallel/shard_map.h"

namespace tessera {

/// Every parameter of a model, logical and in order of depth: unit 0 is the embedding, 1 .. layers the blocks, layers + 1 the head.
/// The only place that knows parameter shapes; each sublayer declares its own (Attention::declare, Mlp::declare).
std::vector<UnitDecls> declare_model(const ModelSpec& spec);

/// Elements of all parameters, a tied weight once.
int64_t parameter_count(const std::vector<UnitDecls>& units);

/// The lecture formula 12 l h^2 + 2 v h: blocks without biases and norms, embedding and head apart.
int64_t lecture_parameter_count(const ModelSpec& spec);

}  // namespace tessera
