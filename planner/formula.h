#pragma once
#include "model/spec.h"
#include "parallel/layout.h"
#include "report/memory_table.h"

namespace tessera {

/// The paper and formula columns of rank `rank`: predicts the engine from plain data, and calls none of it.
///
/// paper    Weights, gradients, Adam states of 12 l h^2 + 2 v h parameters, even over the stages, 4 + 4 + 8 bytes each in fp32, the states over
///          dp from ZeRO-1 on (Rajbhandari et al. 2020, arXiv:1910.02054); activations s b h (34 + 5 a s / h) bytes a block and micro-batch in
///          flight (Korthikanti et al. 2022, arXiv:2205.05198, table 2: 16 bits, dropout masks and the attention matrix counted).
/// formula  Exact for our engine: buckets of ShardMap; activations 4 (4 h + 4 w + 2 f + 4) + 4 a bytes a row, block and micro-batch in
///          flight, h hidden, w = heads x head_dim, f ffn, a heads, and 4 h a row on the last stage; the rounding of each tensor to 64
///          bytes is left out (docs/memory.md).
MemoryTable predict_memory(const ModelSpec& model, const Layout& layout, BatchShape micro_batch, int rank);

/// Micro-batches whose activations pipeline stage `stage` holds at once: all of them (GPipe) or one for each stage from here on (1F1B).
int64_t micro_batches_in_flight(const Layout& layout, int stage);

}  // namespace tessera
