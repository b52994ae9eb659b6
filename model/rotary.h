#pragma once
#include "kernels/device.h"
#include "model/spec.h"

namespace tessera {

/// The table by which ElementwiseOps::rotary turns heads: cos and sin of t theta^(-2i/D) for position t and pair i, computed in fp64.
/// [T, D] fp32 (cosines in the first D/2 columns), permanent memory of category Data; empty where positions are learned.
Tensor make_rotary_table(const ModelSpec& spec, int64_t T, Device& device);

}  // namespace tessera
