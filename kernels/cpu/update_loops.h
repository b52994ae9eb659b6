#pragma once
#include <cstdint>

#include "base/half.h"
#include "kernels/step_end.h"
#include "kernels/update_ops.h"

namespace tessera {

/// What one thread does of the ops of a step's end, on the best instruction set of the machine. Any cut gives the same bits.

/// Elements [begin, end) of a shard. `rounding`: the parameter's stream at this step; `element`: which of its elements stands at `begin`.
void update_range(UpdateRule rule, const UpdateShard& shard, int64_t begin, int64_t end, const UpdateFactors& factors,
                  const RandomStream& rounding, int64_t element);

/// The sum of squares of one block of norm_block elements; all instruction sets agree.
double block_squares(const float* block);
double block_squares(const bf16_t* block);

}  // namespace tessera
