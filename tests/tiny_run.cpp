#include "tests/tiny_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>

#include "base/convert.h"
#include "base/error.h"
#include "base/random.h"
#include "engine/checkpoint_ranges.h"
#include "engine/dry_run.h"
#include "parallel/host_group.h"
#include "parallel/nccl_group.h"

namespace tessera {

namespace {

constexpr const char* defaults = R"(
[model]
layers = 4
hidden = 32
heads = 4
vocab = 96
context = 16
[train]
batch_size = 8
micro_batch_size = 2
clip = 0.05
tuning = "fixed"
[optimizer]
warmup_steps = 2
[parallel]
threads = 1
)";

/// Logical tensors put together from the pieces that the ranks hold.
class Assembly {
 public:
  void add(const std::string& name, int64_t elements, int64_t begin, Tensor piece, Device& device) {
    std::vector<std::byte> stored(static_cast<size_t>(piece.bytes()));
    device.read(stored.data(), piece, piece.bytes());
    std::vector<float> values(static_cast<size_t>(piece.elements()));
    convert(values.data(), DType::f32, stored.data(), piece.dtype, piece.elements());
    const std::lock_guard lock(mutex_);
    std::vector<std::optional<float>>& tensor = tensors_[name];
    tensor.resize(static_cast<size_t>(elements));
    for (size_t i = 0; i < values.size(); i++) {
      std::optional<float>& element = tensor[static_cast<size_t>(begin) + i];
      if (element && std::bit_cast<uint32_t>(*element) != std::bit_cast<uint32_t>(values[i]))
        throw InternalError("ranks differ in " + name);
      element = values[i];
    }
  }

  std::map<std::string, std::vector<float>> take() const {
    std::map<std::string, std::vector<float>> whole;
    for (const auto& [name, tensor] : tensors_) {
      for (const std::optional<float>& element : tensor) {
        if (!element) throw InternalError("no rank holds all of " + name);
        whole[name].push_back(*element);
      }
    }
    return whole;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::vector<std::optional<float>>> tensors_;
};

/// Every weight in use is its master, rounded.
void expect_rounded(const std::map<std::string, std::vector<float>>& weights, const std::map<std::string, std::vector<float>>& masters,
                    DType dtype) {
  for (const auto& [name, values] : weights) {
    for (size_t i = 0; i < values.size(); i++) {
      uint32_t rounded = 0;
      float expected = 0;
      convert(&rounded, dtype, &masters.at(name)[i], DType::f32, 1);
      convert(&expected, DType::f32, &rounded, dtype, 1);
      if (expected != values[i]) throw InternalError("a weight is not its rounded master in " + name);
    }
  }
}

/// With ZeRO-1 a gradient is summed in the owned range alone.
void add_gradients(Assembly& assembly, Trainer& trainer) {
  const ShardMap& map = trainer.params().map();
  for (const LocalBucket& local : trainer.params().buckets()) {
    for (const ShardRange& range : map.ranges(*local.bucket)) {
      if (range.owner != trainer.mesh().coordinate(Axis::Dp)) continue;
      const ParamDecl& decl = map.units()[local.bucket->unit].decls[range.decl];
      const Tensor piece = local.gradients.flat_range(range.offset, range.offset + range.end - range.begin);
      assembly.add(decl.tied_to.empty() ? decl.name : decl.tied_to, decl.shape.elements(), range.begin, piece, trainer.device());
    }
  }
}

void add_weights_and_states(Assembly& weights, Assembly& masters, Assembly& states, Trainer& trainer) {
  const std::string prefix = "weight/";
  for (const CheckpointRange& range : ranges_to_load(trainer)) {
    const bool weight = range.name.starts_with(prefix);
    Assembly& assembly = !weight ? states : range.data.dtype == trainer.run().precision.master ? masters : weights;
    assembly.add(weight ? range.name.substr(prefix.size()) : range.name, range.shape.elements(), range.begin, range.data, trainer.device());
  }
}

}  // namespace

ResolvedRun resolve_tiny(const TinyRun& tiny) {
  RunConfig config;
  ConfigSource source;
  read_toml_text(defaults, "tiny_run.cpp", config, &source);
  config.train.steps = tiny.first_step + tiny.steps;
  for (const std::string& set : tiny.sets) apply_set(config, set, &source);
  return resolve(config, source, tiny.ranks, 0, {.device = tiny.device});
}

TinyResult run_tiny(const TinyRun& tiny) {
  const ResolvedRun run = resolve_tiny(tiny);
  const RandomSamples random(run.model.vocab);
  const BatchSource* data = tiny.data ? tiny.data : &random;
  TinyResult result;
  Assembly weights, masters, states, gradients;
  run_thread_ranks(tiny.ranks, [&](HostGroup& host) {
    const auto device = Device::real(tiny.device, host.rank(), run.threads);
    device->reserve(dry_run(run, host.rank(), device->traits()).size);
    const auto nccl = make_nccl_group(host, device->traits().gpu, communicator_of(run.config.parallel.communicator));
    Mesh mesh(run.layout, nccl ? *nccl : host);
    Trainer trainer(run, *device, mesh);
    tiny.start ? tiny.start(trainer) : trainer.initialize();
    for (int64_t step = tiny.first_step; step < tiny.first_step + tiny.steps; step++) {
      trainer.train_step(step, data, false);
      const StepControl control = trainer.control(step);
      if (step == tiny.first_step) add_gradients(gradients, trainer);
      if (host.rank() > 0) continue;
      result.losses.push_back(control.loss_sum / static_cast<double>(run.tokens_per_step()));
      result.norms.push_back(control.gradient_norm);
    }
    add_weights_and_states(weights, masters, states, trainer);
    if (tiny.finish) tiny.finish(trainer);
  });
  result.weights = masters.take();
  expect_rounded(weights.take(), result.weights, run.precision.compute);
  result.states = states.take();
  result.first_gradients = gradients.take();
  return result;
}

void expect_arena_of_dry_run(Trainer& trainer) {
  const DryRun dry = dry_run(trainer.run(), trainer.mesh().rank(), trainer.device().traits());
  const ArenaUse& use = trainer.device().arena().use();
  EXPECT_EQ(trainer.device().arena().size(), dry.size);
  for (int space = 0; space < memory_spaces; space++) {
    EXPECT_EQ(use.total_peak_bytes[space], dry.use.total_peak_bytes[space]);
    for (int category = 0; category < memory_categories; category++) {
      EXPECT_EQ(use.peak_bytes[space][category], dry.use.peak_bytes[space][category]) << name_of(static_cast<MemoryCategory>(category));
    }
  }
}

std::vector<std::string> team_sets(int threads) {
  return {"parallel.threads=" + std::to_string(threads), "model.context=128", "train.batch_size=32", "train.micro_batch_size=16"};
}

double worst_tensor_error(const std::map<std::string, std::vector<float>>& got, const std::map<std::string, std::vector<float>>& expected) {
  const auto norm = [](const std::vector<float>& values) {
    double squares = 0;
    for (const float value : values) squares += static_cast<double>(value) * value;
    return std::sqrt(squares);
  };
  double squares = 0, elements = 0, worst = 0;
  for (const auto& [name, values] : expected) squares += std::pow(norm(values), 2), elements += static_cast<double>(values.size());
  for (const auto& [name, values] : expected) {
    std::vector<float> difference = got.at(name);
    if (difference.size() != values.size()) throw InternalError(name + " has another size");
    for (size_t i = 0; i < values.size(); i++) difference[i] -= values[i];
    const double least = std::sqrt(squares) * std::sqrt(static_cast<double>(values.size()) / elements) * 1e-3;
    const double error = norm(difference) / std::max(norm(values), least);
    worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

}  // namespace tessera
