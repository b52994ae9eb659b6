#pragma once
#include <vector>

#include "kernels/device.h"
#include "model/spec.h"
#include "parallel/sharded_params.h"

namespace tessera {

/// What travels between sublayers. N = B T rows, H hidden.
/// Forward: h = residual + delta, added by the next norm. Backward: `gradient` is that of h, hence of both.
struct Flow {
  Tensor residual;       // [N, H]
  Tensor delta;          // [N, H]; empty at the start of a stage
  Tensor delta_buffer;   // [N, H]: where sublayers write their delta
  Tensor gradient;       // [N, H]: read by the sublayer whose turn it is
  Tensor next_gradient;  // [N, H]: written by it, may not be `gradient`
};

/// The surroundings of one pass through a stage.
struct PassContext {
  Device& device;
  Stream& stream;
  BatchShape shape;
  const StepControl* control;  // on the device: the loss scale
  Tensor rotary;               // [T, D] fp32, model/rotary.h; empty where positions are learned
  uint64_t number = 0;         // of this micro-batch over the whole run: bf16 gradients are rounded by it
  bool first = false;          // the stage's first backward of the step

  /// Random numbers for adding to a gradient in this pass; `part` tells several additions to one gradient apart.
  RandomStream rounding(const RandomStream& of_gradient, uint64_t part = 0) const { return of_gradient.at(number << 16 | part); }
  /// How sums of this pass reach the gradient of the unit's parameter `index`. The first part of the first pass overwrites what the last
  /// step left.
  GradientWrite write(const UnitView& unit, int index, uint64_t part = 0) const {
    return first && part == 0 ? unit.first_write[index] : GradientWrite::Add;
  }
};

/// A tensor that a sublayer keeps: from forward to backward (saved), or from the input gradient to the weight gradient (kept).
struct KeptTensor {
  const char* name;
  DType dtype;
  Shape shape;
};
using KeptTensors = std::vector<Tensor>;  // in the order of the declaration

/// Bytes of a list when its tensors stand one behind the other in a slot.
int64_t slot_bytes(const std::vector<KeptTensor>& tensors);

}  // namespace tessera
