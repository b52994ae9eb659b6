#pragma once
#include <cstdint>
#include <vector>

#include "model/spec.h"
#include "parallel/shard_map.h"

namespace tessera {

/// Every parameter of a model, logical and in order of depth: unit 0 is the embedding, 1 .. layers the blocks, layers + 1 the head.
/// The only place that knows parameter shapes; each sublayer declares its own (Attention::declare, Mlp::declare).
std::vector<UnitDecls> declare_model(const ModelSpec& spec);

/// Which units a chunk of the pipeline holds: blocks [first_block, last_block), the embedding on the first chunk, the head on the last.
struct StageRange {
  int64_t first_block, last_block;
  bool first, last;
  /// Units of declare_model: [first_unit, last_unit).
  int first_unit() const { return first ? 0 : static_cast<int>(first_block) + 1; }
  int last_unit() const { return static_cast<int>(last_block) + (last ? 2 : 1); }
};
/// Chunk c of `chunks`: blocks as even as possible, the longer chunks in the middle of the pipe (its ends carry embedding and head).
/// ConfigError when there are more chunks than blocks.
StageRange stage_range(const ModelSpec& spec, int chunk, int chunks);

/// Elements of all parameters, a tied weight once.
int64_t parameter_count(const std::vector<UnitDecls>& units);

/// The lecture formula 12 l h^2 + 2 v h: blocks without biases and norms, embedding and head apart.
int64_t lecture_parameter_count(const ModelSpec& spec);

}  // namespace tessera
