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

/// Tensors in an arena of their own, full of random numbers: the ceilings are measured beside the run, on pages like its own.
class Buffers {
 public:
  Buffers(Device& device, int64_t bytes) : device_(device) {
    ArenaSize size;
    size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = bytes;
    arena_ = device.separate_arena(size);
  }
  Tensor take(DType dtype, Shape shape) {
    const Tensor tensor = arena_->permanent(dtype, shape, MemoryCategory::Scratch);
    fill_with_numbers(device_, tensor);
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

/// Of each array whose traffic is the bandwidth's measure, several times the last cache: 192 MiB, or 8 MiB for each multiprocessor of a GPU,
/// none of which has 1 MiB of L2 for one (H200: 60 MB for 132).
int64_t streamed_elements(const DeviceTraits& traits) {
  const int64_t bytes = traits.multiprocessors > 0 ? int64_t{8} * traits.multiprocessors : 192;
  return (bytes << 20) / bytes_of(DType::f32);
}

double bandwidth_ceiling(Trainer& trainer) {
  Device& device = trainer.device();
  const int64_t elements = streamed_elements(device.traits());
  Buffers buffers(device, 2 * 4 * elements);
  const Tensor a = buffers.take(DType::f32, {elements}), b = buffers.take(DType::f32, {elements});
  ElementwiseOps& ops = device.elementwise();
  const double copy = fastest(device, [&](Stream&stream) { ops.copy(a, b, stream); }),
               scale = fastest(device, [&](Stream&stream) { ops.cast(a, a, 1.0f, stream); }),
               add = fastest(device, [&](Stream&stream) { ops.add(a, a, b, stream); });
  const double array_bytes = 4.0 * static_cast<double>(elements);
  return std::max({2 * array_bytes / copy, 2 * array_bytes / scale, 3 * array_bytes / add});
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

/// Steps that were run, and the time they took.
struct TimedSteps {
  std::vector<Trace> traces;
  double step_seconds = 0, outside_seconds = 0, total_seconds = 0;
};

constexpr int64_t warm_up_steps = 3, least_steps = 3;

/// Ops run inline: each step is timed for itself, and medians leave out what else the machine did.
TimedSteps inline_steps(Trainer& trainer, const BatchSource& samples, double seconds) {
  Stream& stream = trainer.device().compute();
  TimedSteps timed;
  std::vector<double> times;
  for (int64_t step = warm_up_steps; std::ssize(times) < least_steps || timed.total_seconds < seconds; step++) {
    stream.set_trace(&timed.traces.emplace_back());
    const double start = steady_seconds();
    trainer.train_step(step, &samples, false);
    const double elapsed = steady_seconds() - start;
    stream.set_trace(nullptr);
    times.push_back(elapsed), timed.total_seconds += elapsed;
  }
  timed.step_seconds = median(times);
  timed.outside_seconds = seconds_outside_ops(timed.traces, times);
  return timed;
}

/// Ops are enqueued: as in training the host is up to two steps ahead, so that steps overlap and only all of them together have a time.
TimedSteps enqueued_steps(Trainer& trainer, const BatchSource& samples, double seconds) {
  Stream& stream = trainer.device().compute();
  Trace all;
  int64_t steps = 0;
  stream.set_trace(&all);
  const double start = steady_seconds();
  for (; steps < least_steps || steady_seconds() - start < seconds; steps++) {
    if (steps >= 2) trainer.control(warm_up_steps + steps - 2);
    trainer.train_step(warm_up_steps + steps, &samples, false);
  }
  trainer.device().finish();
  TimedSteps timed{.total_seconds = steady_seconds() - start};
  stream.set_trace(nullptr);
  const auto ops = std::ssize(all) / steps;
  invariant(ops * steps == std::ssize(all), "every step runs the same ops");
  for (int64_t step = 0; step < steps; step++) timed.traces.emplace_back(all.begin() + step * ops, all.begin() + (step + 1) * ops);
  double inside = 0;
  for (const TraceEntry& entry : all) inside += entry.seconds;
  timed.step_seconds = timed.total_seconds / static_cast<double>(steps);
  timed.outside_seconds = (timed.total_seconds - inside) / static_cast<double>(steps);
  return timed;
}

}  // namespace

StepBench bench_step(Trainer& trainer, double seconds) {
  const RandomSamples samples(trainer.run().model.vocab);
  Device& device = trainer.device();
  trainer.initialize();
  for (int64_t step = 0; step < warm_up_steps; step++) trainer.train_step(step, &samples, false);
  device.finish();
  device.compute().profile() = {};
  const TimedSteps timed = (device.compute().queue() ? enqueued_steps : inline_steps)(trainer, samples, seconds);
  StepBench bench{.steps = std::ssize(timed.traces), .step_seconds = timed.step_seconds, .outside_seconds = timed.outside_seconds};
  bench.waterfall = waterfall_of(device.compute().profile(), bench.steps, timed.total_seconds, 0);
  bench.ops = costs_of(timed.traces);
  bench.ceilings = {.matmul_flops_per_second = matmul_ceiling(trainer, bench.ops), .bytes_per_second = bandwidth_ceiling(trainer)};
  for (OpCost& op : bench.ops) op.floor_seconds = floor_seconds(op.info, bench.ceilings) * static_cast<double>(op.calls);
  return bench;
}

}  // namespace tessera
