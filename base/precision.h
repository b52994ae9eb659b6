#pragma once
#include "base/dtype.h"

namespace tessera {

/// The types in which a run keeps what it keeps. Where the master's type is the compute type, the master weight is the weight.
/// Bytes of a parameter with Adam: 16 in fp32; 18 with bf16 or fp16 compute over fp32 states; 12 with bf16 gradients and moments as well;
/// about 4 more with packed weights.
struct Precision {
  DType compute = DType::f32;   // weights in use, activations and their gradients: fp32, bf16, fp16
  DType master = DType::f32;    // what the optimizer changes: fp32, bf16
  DType gradient = DType::f32;  // weight gradients, summed over micro-batches and ranks: fp32, bf16
  DType moment = DType::f32;    // optimizer states: fp32, bf16
  bool packed_weights = false;  // weights of linear layers also in panels, for each of the two products that read them: bf16 compute only
  bool operator==(const Precision&) const = default;
};

}  // namespace tessera
