#pragma once
#include <cstdint>

#include "base/half.h"
#include "kernels/update_ops.h"

namespace tessera {

/// What one thread does of the ops of a step's end, on the best instruction set of the machine. Any cut gives the same bits.

/// A rule's factors in one segment and step; fp32, computed in fp64.
struct UpdateFactors {
  float gradient_factor, learning_rate;
  float decay;  // AdamW: learning rate times weight decay
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float m_scale;  // learning rate / (1 - beta1^t)
  float v_scale;  // 1 / sqrt(1 - beta2^t), after the root
  float epsilon;
};
/// Elements [begin, end) of a shard. `rounding`: the parameter's stream at this step; `element`: which of its elements stands at `begin`.
void update_range(UpdateRule rule, const UpdateShard& shard, int64_t begin, int64_t end, const UpdateFactors& factors,
                  const RandomStream& rounding, int64_t element);

/// Elements whose squares are summed in fp64 before the sum becomes a fixed-point integer.
constexpr int64_t norm_block = 256;
/// The sum of squares of one block: lane j of 16 adds elements j, j + 16, ... and a fixed tree adds the lanes. The squares of fp32 numbers
/// are exact in fp64, so all instruction sets agree.
double block_squares(const float* block);
double block_squares(const bf16_t* block);

}  // namespace tessera
