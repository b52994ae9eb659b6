#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace tessera {

/// Every op of every family, and the communication that a trace shows between them.
enum class OpKind : uint8_t {
  LinearForward,
  LinearBackwardInput,
  LinearBackwardWeight,
  PackWeight,
  AttentionForward,
  AttentionBackward,
  LayerNormForward,
  LayerNormBackwardInput,
  LayerNormBackwardWeight,
  RmsNormForward,
  RmsNormBackwardInput,
  RmsNormBackwardWeight,
  EmbeddingForward,
  TokenEmbeddingBackward,
  PositionEmbeddingBackward,
  GeluForward,
  GeluBackward,
  SwigluForward,
  SwigluBackward,
  Rotary,
  Add,
  Cast,
  Copy,
  Zero,
  OrderedSum,
  CrossEntropy,
  CrossEntropyLoss,
  Sgd,
  Momentum,
  AdaGrad,
  Adam,
  AdamW,
  GradientNorm,
  AddLoss,
  BeginStep,
  AgreeStep,
  AllGather,
  AllToAll,
  Send,
  Receive,
  Record,
  Wait,
  Count
};
constexpr int op_kinds = static_cast<int>(OpKind::Count);
const char* name_of(OpKind kind);  // "linear_forward"
constexpr bool is_linear(OpKind kind) {
  return kind == OpKind::LinearForward || kind == OpKind::LinearBackwardInput || kind == OpKind::LinearBackwardWeight;
}
constexpr bool is_attention(OpKind kind) { return kind == OpKind::AttentionForward || kind == OpKind::AttentionBackward; }

/// Which part of a step an op belongs to; the bars of the waterfall.
enum class Phase : uint8_t { Setup, Data, Forward, Backward, Recompute, Exchange, Update, Evaluate, Checkpoint, Count };
constexpr int phases = static_cast<int>(Phase::Count);
const char* name_of(Phase phase);

/// Why a stream waits: the time inside Stream::wait by reason *is* the exposed communication.
enum class WaitReason : uint8_t { Tp, Dp, Pp, Tied, Data, Offload, Checkpoint, Control, Count };
constexpr int wait_reasons = static_cast<int>(WaitReason::Count);
const char* name_of(WaitReason reason);

/// What distinguishes two calls of one op: the extents that its docstring names (of a linear layer N, I, O, 1 where it adds a bias, and 1
/// where its weight is also packed, or, of a weight gradient, where it is added), and the dtype.
struct ShapeKey {
  std::array<int64_t, 5> extents{};
  DType dtype = DType::f32;
  auto operator<=>(const ShapeKey&) const = default;
};

/// What one call of an op costs. FLOPs count a multiply-add as two; bytes count each operand once.
struct OpInfo {
  OpKind kind;
  ShapeKey shape;
  double flops = 0;
  int64_t read_bytes = 0, write_bytes = 0;
  int launches = 1;
  Phase phase = Phase::Setup;  // set by the stream that runs it
  bool operator==(const OpInfo&) const = default;
};

/// One line of a trace: the op and where in the step it stands.
struct TraceEntry {
  OpInfo info;
  const char* stream;   // "compute", "communication"
  int32_t action = -1;  // index in the Program, -1 outside
  int32_t unit = -1;    // embedding 0, blocks 1.., head last; -1 outside
  double seconds = 0;   // that it took, on a device where ops take time; no part of ==
  bool operator==(const TraceEntry& other) const;
};
using Trace = std::vector<TraceEntry>;

}  // namespace tessera
