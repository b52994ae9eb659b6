#pragma once
#include <string>
#include <vector>

#include "kernels/op_info.h"

namespace tessera {

class Device;
struct DeviceTraits;

/// A family of ops that computes some of them in more than one way. The choice changes rounding, and nothing else.
class Tunable {
 public:
  virtual ~Tunable() = default;
  /// Names of the ways to compute the op, the one that a fixed rule takes first. Fewer than two: nothing to choose.
  virtual std::vector<std::string> candidates(OpKind, const ShapeKey&) const { return {}; }
  /// Name of the way in which the op is computed now; empty where there is one way only.
  virtual std::string choice(OpKind, const ShapeKey&) const { return {}; }
  /// From now on the op is computed so. `candidate` is one of candidates().
  virtual void choose(OpKind, const ShapeKey&, const std::string& candidate);
};

/// A way of computing an op, and the seconds of a call.
struct TimedCandidate {
  std::string name;
  double seconds = 0;
};

/// One op of one shape, how it is computed, and what was measured to decide it.
struct TunedOp {
  OpKind kind = OpKind::Count;
  ShapeKey shape;
  std::string choice;
  std::vector<TimedCandidate> measured;
  std::string device;  // where it was measured: device_text of its traits
};

/// What was chosen for the ops of a run: the tuning table.
using TuningTable = std::vector<TunedOp>;
/// nullptr when the table does not know the op.
const TunedOp* find(const TuningTable& table, OpKind kind, const ShapeKey& shape);

/// "AMD EPYC, AVX3, 2 threads": what timings depend on.
std::string device_text(const DeviceTraits& device);

/// The distinct ops of a trace that this device computes in more than one way, each with the rule's choice.
TuningTable ops_to_tune(Device& device, const Trace& trace);
/// Times every candidate of `op` on memory that the device has reserved and not yet taken, and chooses the fastest: another than the
/// rule's only when it wins clearly. Where that memory is too small, the rule's choice stays. Leaves zeros.
TunedOp measured(Device& device, const TunedOp& op);
/// Makes the device compute as the table says. An op or a candidate that this device does not know is left to the rule, and counted.
int choose(Device& device, const TuningTable& table);

}  // namespace tessera
