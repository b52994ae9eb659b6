#include "engine/step_bench.h"

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>

#include "base/error.h"
#include "base/random.h"
#include "engine/accounts.h"

namespace tessera {

void RandomSamples::sample(int64_t i, std::span<int32_t> tokens) const {
  const RandomStream stream(seed_, RandomPurpose::Sample, "random samples", static_cast<uint64_t>(i));
  for (size_t t = 0; t < tokens.size(); t++) tokens[t] = static_cast<int32_t>(stream.below(t, static_cast<uint64_t>(vocab_)));
}

double StepBench::floor_seconds() const {
  double sum = 0;
  for (const OpCost& op : ops) sum += op.floor_seconds;
  return sum;
}

static double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

double floor_seconds(const OpInfo& op, const Ceilings& ceilings) {
  const bool by_flops = is_linear(op.kind) || is_attention(op.kind);
  if (by_flops) return op.flops / ceilings.matmul_flops_per_second;
  return static_cast<double>(op.read_bytes + op.write_bytes) / ceilings.bytes_per_second;
}

double seconds_outside_ops(std::span<const Trace> steps, std::span<const double> step_seconds) {
  std::vector<double> outside(step_seconds.begin(), step_seconds.end());
  for (size_t i = 0; i < outside.size(); i++) {
    for (const TraceEntry& entry : steps[i]) outside[i] -= entry.seconds;
  }
  return median(std::move(outside));
}

namespace {

/// Seconds of the fastest of a few calls.
double fastest(Device& device, const std::function<void(Stream&)>& call) {
  double best = 1e9;
  for (int i = 0; i < 4; i++) best = std::min(best, device.seconds_of(call));
  return best;
}

/// Tensors in an arena of their own: the ceilings are measured beside the run, on pages like its own. All hold numbers other than zero:
/// pages never written are one page of zeros, which stays in the caches, and some processors write zeros at twice the speed.
class Buffers {
 public:
  Buffers(Device& device, int64_t bytes) : device_(device) {
    ArenaSize size;
    size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = bytes;
    arena_ = device.separate_arena(size);
  }
  Tensor take(DType dtype, Shape shape) {
    const Tensor tensor = arena_->permanent(dtype, shape, MemoryCategory::Scratch);
    device_.fill({static_cast<std::byte*>(tensor.data), static_cast<size_t>(tensor.bytes())}, 0x3C);  // about 0.01; 1 in fp16
    return tensor;
  }

 private:
  Device& device_;
  std::unique_ptr<Arena> arena_;
};

double matmul_ceiling(Trainer& trainer, const std::vector<OpCost>& ops) {
  const OpInfo* largest = nullptr;
  for (const OpCost& op : ops) {
    if (is_linear(op.info.kind) && (!largest || op.info.flops > largest->flops)) largest = &op.info;
  }
  invariant(largest != nullptr, "a training step without a matmul");
  const auto [N, I, O, _, __] = largest->shape.extents;
  const DType dtype = largest->shape.dtype;
  Device& device = trainer.device();
  Buffers buffers(device, 4 * (N * I + 2 * O * I + N * O) + 4 * arena_alignment_bytes);
  const Tensor x = buffers.take(dtype, {N, I}), weight = buffers.take(dtype, {O, I}), y = buffers.take(dtype, {N, O}),
               dweight = buffers.take(DType::f32, {O, I});
  MatmulOps& matmul = device.matmul();
  const double seconds = std::min(
      {fastest(device, [&](Stream& stream) { matmul.linear_forward(y, x, weight, {}, stream); }),
       fastest(device, [&](Stream& stream) { matmul.linear_backward_input(x, y, weight, stream); }),
       fastest(device, [&](Stream& stream) { matmul.linear_backward_weight(dweight, {}, y, x, GradientWrite::Overwrite, {}, stream); })});
  return largest->flops / seconds;
}

double bandwidth_ceiling(Trainer& trainer) {
  constexpr int64_t elements = int64_t{48} << 20;  // 192 MiB each
  Device& device = trainer.device();
  Buffers buffers(device, 2 * 4 * elements);
  const Tensor a = buffers.take(DType::f32, {elements}), b = buffers.take(DType::f32, {elements});
  ElementwiseOps& ops = device.elementwise();
  const double copy = fastest(device, [&](Stream&stream) { ops.copy(a, b, stream); }),
               scale = fastest(device, [&](Stream&stream) { ops.cast(a, a, 1.0f, stream); }),
               add = fastest(device, [&](Stream&stream) { ops.add(a, a, b, stream); });
  return std::max({2 * 4.0 * elements / copy, 2 * 4.0 * elements / scale, 3 * 4.0 * elements / add});
}

using OpKey = std::tuple<OpKind, std::array<int64_t, 5>, DType, Phase>;

/// What the traces of several steps say of each distinct op.
std::vector<OpCost> costs_of(const std::vector<Trace>& steps) {
  std::map<OpKey, OpCost> costs;
  std::map<OpKey, std::vector<double>> seconds;
  for (const Trace& trace : steps) {
    std::map<OpKey, double> of_step;
    for (const TraceEntry& entry : trace) {
      const OpInfo& info = entry.info;
      if (info.launches == 0) continue;
      const OpKey key{info.kind, info.shape.extents, info.shape.dtype, info.phase};
      of_step[key] += entry.seconds;
      OpCost& cost = costs[key];
      cost.info = info;
      cost.calls += &trace == &steps.front();
    }
    for (const auto& [key, sum] : of_step) seconds[key].push_back(sum);
  }
  std::vector<OpCost> sorted;
  for (auto& [key, cost] : costs) {
    cost.seconds = median(seconds[key]);
    sorted.push_back(cost);
  }
  std::ranges::sort(sorted, std::greater(), &OpCost::seconds);
  return sorted;
}

}  // namespace

StepBench bench_step(Trainer& trainer, double seconds) {
  constexpr int64_t warm_up = 3, least_steps = 3;
  const RandomSamples samples(trainer.run().model.vocab);
  Stream& stream = trainer.device().compute();
  std::vector<Trace> traces;
  std::vector<double> times;
  double total = 0;
  trainer.initialize();
  for (int64_t step = 0; step < warm_up + least_steps || total < seconds; step++) {
    const bool timed = step >= warm_up;
    if (step == warm_up) stream.profile() = {};
    if (timed) stream.set_trace(&traces.emplace_back());
    const double start = steady_seconds();
    trainer.train_step(step, &samples, false);
    trainer.device().finish();
    const double elapsed = steady_seconds() - start;
    stream.set_trace(nullptr);
    if (timed) times.push_back(elapsed), total += elapsed;
  }
  StepBench bench{.steps = static_cast<int64_t>(times.size()), .step_seconds = median(times)};
  bench.waterfall = waterfall_of(stream.profile(), bench.steps, total, 0);
  bench.ops = costs_of(traces);
  bench.outside_seconds = seconds_outside_ops(traces, times);
  bench.ceilings = {.matmul_flops_per_second = matmul_ceiling(trainer, bench.ops), .bytes_per_second = bandwidth_ceiling(trainer)};
  for (OpCost& op : bench.ops) op.floor_seconds = floor_seconds(op.info, bench.ceilings) * static_cast<double>(op.calls);
  return bench;
}

}  // namespace tessera
