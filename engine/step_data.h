#pragma once
#include <array>
#include <vector>

#include "engine/batch_source.h"
#include "kernels/device.h"
#include "model/stage.h"
#include "parallel/mesh.h"

namespace tessera {

/// The tokens of one step on this rank: inputs and their sorted index on the first stage, targets on the last. M micro-batches of N = B T
/// rows. Where the host cannot write the device's memory, it writes pinned memory that is copied on a stream of its own, so that the tokens
/// of a step travel while the step before it computes.
class StepData {
 public:
  StepData(BatchShape shape, bool first, bool last, Mesh& mesh, Device& device);
  /// Reads the samples of a step that begins at sample `first` and hands them to the device; ops on `stream` find them there. `source` may
  /// be null on the null device.
  void load(const BatchSource* source, int64_t first, Stream& stream);
  /// Tensors of micro-batch m of the step loaded last; empty where this stage does not need them.
  StageInput micro_batch(int m) const;
  /// Tokens given by hand for micro-batch 0, row by row (sampling).
  void set_tokens(std::span<const int32_t> tokens);

 private:
  /// [M, N] on the device, and where the host writes it: the same memory, or pinned.
  struct Field {
    Ring device, host;
    bool used() const { return device.count() > 0; }
  };
  Field field(bool used) const;
  std::array<const Field*, 3> fields() const { return {&tokens_, &order_, &targets_}; }
  void read_samples(const BatchSource& source, int64_t first);
  void upload(Stream& stream);

  BatchShape shape_;
  bool first_, last_, staged_;
  Mesh& mesh_;
  Device& device_;
  int64_t micro_batches_;
  Field tokens_, order_, targets_;
  int64_t use_ = 0;                       // of the rings: the step loaded last
  std::vector<Event> uploaded_, unused_;  // by ring entry: the copies have ended; the device's entry may be written again
  std::vector<int32_t> sample_, workspace_;
};

}  // namespace tessera
