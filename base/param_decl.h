#pragma once
#include <cstdint>
#include <string>

#include "base/shape.h"

namespace tessera {

/// How tensor parallelism treats a parameter. ReplicatedPartialGrad: norms under sequence parallelism, K/V heads fewer than tp.
enum class TpRole : uint8_t { Split, Replicated, ReplicatedPartialGrad };

/// Initial values: constant `value`, or normal with standard deviation `value`.
struct Init {
  enum class Kind : uint8_t { Constant, Normal } kind = Kind::Constant;
  double value = 0;
};

/// One parameter's global truth: logical (unfused, unpadded). Everything that allocates, shards, updates, saves or counts reads these.
struct ParamDecl {
  std::string name;  // "blocks.3.attention.q_proj.weight"
  Shape shape;       // weights [out, in], biases and norms [width], embeddings [rows, H]
  TpRole role = TpRole::Replicated;
  int tp_axis = 0;  // the axis of `shape` that Split cuts
  Init init;
  bool decay = false;  // weight decay applies
  bool trainable = true;
  bool linear = false;    // the weight of a linear layer, which may also be kept packed
  bool adjacent = false;  // stands right behind the previous declaration in its bucket, so that both are one fused weight (q|k|v)
  std::string tied_to;    // the name of the parameter whose values this one repeats (the head under tied embeddings), or empty
};

}  // namespace tessera
