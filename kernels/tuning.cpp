// B batch   T tokens   A query heads   K key/value heads   D head width   N rows   I inputs   O outputs
#include "kernels/tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "base/error.h"
#include "base/packed_weight.h"
#include "kernels/device.h"

namespace tessera {

void Tunable::choose(OpKind, const ShapeKey&, const std::string& candidate) {
  throw InternalError("an op has no candidate called " + candidate);
}

const TunedOp* find(const TuningTable& table, OpKind kind, const ShapeKey& shape) {
  const auto found = std::ranges::find_if(table, [&](const TunedOp& op) { return op.kind == kind && op.shape == shape; });
  return found == table.end() ? nullptr : &*found;
}

namespace {

/// The family that computes an op, if that family can be tuned.
Tunable* family_of(Device& device, OpKind kind) {
  if (is_linear(kind)) return &device.matmul();
  if (is_attention(kind)) return &device.attention();
  return nullptr;
}

std::vector<std::string> candidates_of(Device& device, OpKind kind, const ShapeKey& shape) {
  Tunable* family = family_of(device, kind);
  return family ? family->candidates(kind, shape) : std::vector<std::string>();
}

/// Operands one behind the other.
class Operands {
 public:
  explicit Operands(std::span<std::byte> memory) : memory_(memory) {}
  Tensor take(DType dtype, Shape shape) {
    const auto begin = static_cast<size_t>(used_);
    used_ += arena_rounded(bytes_of(dtype) * shape.elements());
    return Tensor(fits() ? memory_.data() + begin : nullptr, dtype, shape);
  }
  bool fits() const { return used_ <= static_cast<int64_t>(memory_.size()); }
  std::span<std::byte> used() const { return memory_.first(static_cast<size_t>(used_)); }

 private:
  std::span<std::byte> memory_;
  int64_t used_ = 0;
};

using Call = std::function<void(Stream&)>;

Call linear_call(Device& device, OpKind kind, const ShapeKey& shape, Operands& operands) {
  const auto [N, I, O, biased, flag] = shape.extents;
  const Tensor x = operands.take(shape.dtype, {N, I}), y = operands.take(shape.dtype, {N, O});
  const DType of_weight = kind == OpKind::LinearBackwardWeight ? DType::f32 : shape.dtype;
  const Tensor weight = operands.take(of_weight, {O, I}), bias = biased ? operands.take(of_weight, {O}) : Tensor();
  MatmulOps& ops = device.matmul();
  if (kind == OpKind::LinearBackwardWeight) {
    const GradientWrite write = flag ? GradientWrite::Add : GradientWrite::Overwrite;
    return [=, &ops](Stream& stream) { ops.linear_backward_weight(weight, bias, y, x, write, {}, stream); };
  }
  const Tensor packed = flag ? operands.take(shape.dtype, {packed_elements(I, O)}) : Tensor();
  if (kind == OpKind::LinearForward) return [=, &ops](Stream& stream) { ops.linear_forward(y, x, weight, bias, stream, packed); };
  return [=, &ops](Stream& stream) { ops.linear_backward_input(x, y, weight, stream, packed); };
}

Call attention_call(Device& device, OpKind kind, const ShapeKey& shape, Operands& operands) {
  const auto [B, T, A, K, D] = shape.extents;
  const AttentionShape s{.B = B, .T = T, .A = A, .K = K, .D = D};  // lambdas of clang 14 see no part of a structured binding
  const auto dense = [&] { return operands.take(shape.dtype, {s.B * s.T, s.A * s.D}); };
  // Queries, keys and values as layers lay them: beside each other.
  const auto fused = [&] { return operands.take(shape.dtype, {s.B * s.T, (s.A + 2 * s.K) * s.D}); };
  const auto queries = [=](const Tensor& all) { return all.column_range(0, s.A * s.D); };
  const auto keys = [=](const Tensor& all) { return all.column_range(s.A * s.D, (s.A + s.K) * s.D); };
  const auto values = [=](const Tensor& all) { return all.column_range((s.A + s.K) * s.D, (s.A + 2 * s.K) * s.D); };
  const auto rows = [&] { return operands.take(DType::f32, {s.B, s.A, s.T}); };
  const Tensor qkv = fused(), q = queries(qkv), k = keys(qkv), v = values(qkv), y = dense(), lse = rows();
  AttentionOps& ops = device.attention();
  if (kind == OpKind::AttentionForward) return [=, &ops](Stream& stream) { ops.attention_forward(y, lse, q, k, v, s, stream); };
  const Tensor dqkv = fused(), dq = queries(dqkv), dk = keys(dqkv), dv = values(dqkv), dy = dense(), delta = rows();
  return [=, &ops](Stream& stream) { ops.attention_backward(dq, dk, dv, delta, dy, q, k, v, y, lse, s, stream); };
}

Call call_of(Device& device, const TunedOp& op, Operands& operands) {
  return is_attention(op.kind) ? attention_call(device, op.kind, op.shape, operands) : linear_call(device, op.kind, op.shape, operands);
}

}  // namespace

std::string device_text(const DeviceTraits& device) {
  return fmt::format("{}, {}, {} thread{}", device.name, device.isa, device.threads, device.threads == 1 ? "" : "s");
}

TuningTable ops_to_tune(Device& device, const Trace& trace) {
  TuningTable table;
  for (const TraceEntry& entry : trace) {
    const auto& [kind, shape] = std::tie(entry.info.kind, entry.info.shape);
    if (!family_of(device, kind) || find(table, kind, shape)) continue;
    const auto candidates = candidates_of(device, kind, shape);
    if (candidates.size() > 1)
      table.push_back({.kind = kind, .shape = shape, .choice = candidates.front(), .measured = {}, .device = device_text(device.traits())});
  }
  return table;
}

TunedOp measured(Device& device, const TunedOp& op) {
  Operands operands(device.arena().untaken());
  const Call call = call_of(device, op, operands);
  if (!operands.fits()) return op;
  device.fill(operands.used(), 0x3c);  // about 0.01, or 1 in fp16: no zeros, no denormals
  TunedOp result = op;
  result.device = device_text(device.traits());
  result.measured.clear();
  for (const std::string& name : candidates_of(device, op.kind, op.shape)) result.measured.push_back({name, 1e9});
  constexpr int rounds = 4;  // in turns, so that what else the machine does meets all of them; the first is the warm-up
  for (int round = 0; round < rounds; round++) {
    for (TimedCandidate& candidate : result.measured) {
      family_of(device, op.kind)->choose(op.kind, op.shape, candidate.name);
      const double seconds = device.seconds_of(call);
      if (round > 0) candidate.seconds = std::min(candidate.seconds, seconds);
    }
  }
  constexpr double clearly = 0.97;
  const TimedCandidate& rule = result.measured.front();
  const TimedCandidate& best = *std::ranges::min_element(result.measured, {}, &TimedCandidate::seconds);
  result.choice = best.seconds < clearly * rule.seconds ? best.name : rule.name;
  family_of(device, op.kind)->choose(op.kind, op.shape, result.choice);
  device.fill(operands.used(), 0);
  return result;
}

int choose(Device& device, const TuningTable& table) {
  int unknown = 0;
  for (const TunedOp& op : table) {
    const auto known = candidates_of(device, op.kind, op.shape);
    if (std::ranges::find(known, op.choice) == known.end()) {
      unknown++;
    } else {
      family_of(device, op.kind)->choose(op.kind, op.shape, op.choice);
    }
  }
  return unknown;
}

}  // namespace tessera
