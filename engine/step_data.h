#pragma once
#include <vector>

#include "engine/batch_source.h"
#include "kernels/device.h"
#include "model/stage.h"
#include "parallel/mesh.h"

namespace tessera {

/// The tokens of one step on this rank: inputs and their sorted index on the first stage, targets on the last.
/// M micro-batches of N = B T rows.
class StepData {
 public:
  StepData(BatchShape shape, bool first, bool last, Mesh& mesh, Device& device);
  /// Reads the samples of a step that begins at sample `first` and hands them to the device. `source` may be null on the null device.
  void load(const BatchSource* source, int64_t first, Stream& stream);
  /// Tensors of micro-batch m; empty where this stage does not need them.
  StageInput micro_batch(int m) const;
  /// Tokens given by hand for micro-batch 0, row by row (sampling).
  void set_tokens(std::span<const int32_t> tokens);

 private:
  BatchShape shape_;
  bool first_, last_;
  Mesh& mesh_;
  Device& device_;
  int64_t micro_batches_;
  Tensor tokens_, order_, targets_;  // device, [M, N]
  std::vector<int32_t> sample_, host_tokens_, host_order_, host_targets_, workspace_;
};

}  // namespace tessera
