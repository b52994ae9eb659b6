#pragma once
#include <span>
#include <vector>

#include "engine/trainer.h"
#include "report/waterfall.h"

namespace tessera {

/// All calls of one op and shape in a training step.
struct OpCost {
  OpInfo info;  // of one call
  int64_t calls = 0;
  double seconds = 0;        // of a step, median
  double floor_seconds = 0;  // of a step, at the ceilings
};

/// What the machine reaches, measured in the same run.
struct Ceilings {
  double matmul_flops_per_second = 0;  // the fastest of forward, input and weight gradient at the run's largest matmul
  double bytes_per_second = 0;  // read and written by a copy, or a scaling or an addition in place, of arrays far larger than the caches
};

/// The seconds of one call at the ceilings: matmuls and attention by FLOPs, all others by bytes.
double floor_seconds(const OpInfo& op, const Ceilings& ceilings);

/// Of a step that took step_seconds[i] and left the trace steps[i], what no op accounts for; the median over the steps. (The median step
/// less each op's median would count what slow steps spend inside ops.)
double seconds_outside_ops(std::span<const Trace> steps, std::span<const double> step_seconds);

/// A training step measured, beside what the machine's ceilings allow.
struct StepBench {
  int64_t steps = 0;
  double step_seconds = 0;     // median; the mean where ops are enqueued and steps overlap
  Waterfall waterfall;         // mean
  double outside_seconds = 0;  // as step_seconds
  Ceilings ceilings;
  std::vector<OpCost> ops;  // the longest first

  /// Sum over the ops.
  double floor_seconds() const;
};

/// Trains on random tokens for about `seconds`, after a warm-up; weights change. One rank, a real device.
StepBench bench_step(Trainer& trainer, double seconds);

/// Uniform tokens, a function of the sample's number alone.
class RandomSamples : public BatchSource {
 public:
  explicit RandomSamples(int64_t vocab, uint64_t seed = 7) : vocab_(vocab), seed_(seed) {}
  void sample(int64_t i, std::span<int32_t> tokens) const override;

 private:
  int64_t vocab_;
  uint64_t seed_;
};

}  // namespace tessera
