#pragma once
#include <array>
#include <memory>
#include <vector>

#include "engine/batch_source.h"
#include "engine/run_config.h"
#include "engine/step_data.h"
#include "kernels/device.h"
#include "model/stage.h"
#include "optim/optimizer.h"
#include "parallel/mesh.h"
#include "parallel/schedule.h"
#include "parallel/sharded_params.h"

namespace tessera {

/// One rank's part of training: memory taken once in the constructor, then steps. The same code on every device: the dry run is this
/// class on null.
class Trainer {
 public:
  Trainer(const ResolvedRun& run, Device& device, Mesh& mesh);
  Trainer(const Trainer&) = delete;

  /// Initial values and empty optimizer states; step 0 comes next.
  void initialize();
  /// One optimizer step on the next batch_size samples. Nothing waits for its result: `control(step)` is read later. `data` may be null
  /// on the null device.
  void train_step(int64_t step, const BatchSource* data, bool stop_vote);
  /// Mean loss over the first `batches` batches of `data`, the same on every rank; weights stay as they are. The host waits for it.
  double evaluate(const BatchSource* data, int64_t batches);
  /// Logits [V] behind the last of `tokens` (1 to T). InternalError unless this rank holds the whole model.
  std::vector<float> next_logits(std::span<const int32_t> tokens);

  /// What all ranks agreed on at the end of `step`, one of the newest three: older copies are overwritten. The host waits for that step,
  /// and for nothing behind it.
  StepControl control(int64_t step) const;
  /// After weights were loaded: the state after `control.step` steps, `samples` of the data drawn.
  void restore(const StepControl& control, int64_t samples);
  int64_t samples() const { return samples_; }
  /// The length of the run, when it was not known at the start: shapes the learning rate's curve.
  void set_steps(int64_t steps) { run_.set_steps(steps); }

  const ResolvedRun& run() const { return run_; }
  ShardedParams& params() { return params_; }
  Optimizer& optimizer() { return optimizer_; }
  Device& device() { return device_; }
  Mesh& mesh() { return mesh_; }
  const Stage& stage() const { return stage_; }

 private:
  /// Ring entries that a compute action reads from and writes to; -1: none.
  struct Transfer {
    int receive = -1, send = -1;
  };
  enum class Mode : uint8_t { Train, Evaluate };

  static std::vector<Transfer> transfers_of(const Program& program);
  void run_program(const Program& program, const std::vector<Transfer>& transfers, Mode mode);
  void forward(const Action& action, Transfer transfer, Mode mode);
  void backward(const Action& action, Transfer transfer);
  void send(const Action& action, Ring& ring, Comm& pipe);
  void receive(const Action& action, Ring& ring, std::vector<Event>& ready, Comm& pipe);
  void gather_partials();
  StepPartial* own_partial() const;
  const StepControl* control() const { return static_cast<const StepControl*>(control_.data); }
  PassContext pass(int micro_batch);

  ResolvedRun run_;
  Device& device_;
  Mesh& mesh_;
  std::vector<UnitDecls> units_;
  ShardMap map_;
  Stage stage_;
  ShardedParams params_;
  Optimizer optimizer_;
  Program program_, evaluation_;
  std::vector<Transfer> transfers_, evaluation_transfers_;
  SlotPool slots_;
  StepData data_;
  Ring act_in_, act_out_, grad_in_, grad_out_;
  std::vector<Event> act_ready_, grad_ready_;
  Tensor partials_, control_, logits_, rotary_;
  Ring published_;
  std::vector<Event> publications_;  // by ring entry: it holds the step's control
  int64_t samples_ = 0;              // drawn so far, over all ranks
  int64_t step_ = 0;                 // the one that runs
};

}  // namespace tessera
