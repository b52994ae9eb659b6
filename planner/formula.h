#pragma once
#include "base/precision.h"
#include "model/spec.h"
#include "parallel/layout.h"
#include "report/memory_table.h"

namespace tessera {

/// What memory is a function of. states: tensors that the optimizer keeps for each parameter.
struct MemoryQuestion {
  ModelSpec model;
  Layout layout;
  BatchShape batch;
  Precision precision;
  int64_t states = 2;
  int64_t workspace_bytes = 0;  // that the device grants its ops
};

/// The paper and formula columns of rank `rank`: predicts the engine from plain data, and calls none of it. Bytes of the types that
/// `precision` names.
///
/// paper    Weights, masters, gradients, states of 12 l h^2 + 2 v h parameters, even over the stages, masters and states over dp from
///          ZeRO-1 on (Rajbhandari et al. 2020, arXiv:1910.02054); activations s b h (34 + 5 a s / h) bytes a block and micro-batch in
///          flight (Korthikanti et al. 2022, arXiv:2205.05198, table 2: 16 bits, dropout masks and the attention matrix counted).
/// formula  Exact for our engine: buckets of ShardMap; activations u (4 h + 2 w + 2 k + p f) + 4 (2 S + a) bytes a row, block and micro-batch
///          in flight, u bytes of the compute type, h hidden, w = heads x head_dim, k = key/value heads x head_dim, f ffn, a heads,
///          p = 2 and S = 2 for gpt2, p = 3 and S = 1 for llama, and u h a row on the last stage; the rounding of each tensor to 64 bytes
///          is left out (docs/memory.md). Packed weights: twice 2 bytes an element of linear weights, both extents up to multiples of 32.
///          The workspace is the device's grant.
MemoryTable predict_memory(const MemoryQuestion& question, int rank);

/// Micro-batches whose activations pipeline stage `stage` holds at once: all of them (GPipe) or one for each stage from here on (1F1B).
int64_t micro_batches_in_flight(const Layout& layout, int stage);

}  // namespace tessera
