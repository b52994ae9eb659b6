#include "engine/run_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>
#include <thread>

#include "base/error.h"
#include "kernels/matmul_ops.h"

namespace tessera {

/// 4 h; SwiGLU has three matrices instead of two, so 2/3 of that.
static int64_t usual_ffn(const ModelSpec& spec) { return spec.is_llama() ? (8 * spec.hidden / 3 + 255) / 256 * 256 : 4 * spec.hidden; }

static ModelSpec resolve_model(const RunConfig& run, const ConfigSource& source, int64_t tokenizer_vocab) {
  const ModelConfig& config = run.model;
  ModelSpec spec;
  if (!config.preset.empty()) spec = model_preset(config.preset).spec;
  const bool other_width = config.hidden != 0 || config.heads != 0;
  const auto take = [](int64_t& field, int64_t given) {
    if (given != 0) field = given;
  };
  // A preset's choices stand unless the key itself was given.
  const auto choose = [&](const char* key, auto& field, const auto& given) {
    if (config.preset.empty() || source.sets(key)) field = given;
  };
  choose("model.architecture", spec.architecture, config.architecture);
  choose("model.tied", spec.tied, config.tied);
  choose("model.norm_epsilon", spec.norm_epsilon, config.norm_epsilon);
  choose("model.init_std", spec.init_std, config.init_std);
  choose("model.rope_theta", spec.rope_theta, config.rope_theta);
  take(spec.layers, config.layers);
  take(spec.hidden, config.hidden);
  take(spec.heads, config.heads);
  take(spec.vocab, config.vocab != 0 ? config.vocab : spec.vocab != 0 ? 0 : tokenizer_vocab);
  take(spec.context, config.context != 0 ? config.context : spec.context != 0 ? 0 : run.train.sequence);
  if (config.head_dim != 0) {
    spec.head_dim = config.head_dim;
  } else if (other_width || spec.head_dim == 0) {
    if (spec.heads > 0 && spec.hidden % spec.heads != 0) {
      throw ConfigError({fmt::format("model.heads = {} does not divide model.hidden = {}", spec.heads, spec.hidden),
                         source.where_of("model.heads"),
                         "a divisor of model.hidden, or model.head_dim given as well",
                         {}});
    }
    spec.head_dim = spec.heads > 0 ? spec.hidden / spec.heads : 0;
  }
  if (config.kv_heads != 0 || other_width || spec.kv_heads == 0) spec.kv_heads = config.kv_heads != 0 ? config.kv_heads : spec.heads;
  if (config.ffn != 0 || config.hidden != 0 || spec.ffn == 0) spec.ffn = config.ffn != 0 ? config.ffn : usual_ffn(spec);
  if (spec.vocab == 0) {
    throw ConfigError({"model.vocab is not known", "[model]", "model.vocab, or a preset, or data.tokenizer", {}});
  }
  check(spec);
  return spec;
}

static std::string divisors(int64_t n) {
  std::string text;
  for (int64_t d = 1; d <= n; d++) {
    if (n % d == 0) text += (text.empty() ? "" : ", ") + std::to_string(d);
  }
  return text;
}

static Layout resolve_layout(const RunConfig& config, const ConfigSource& source, int ranks) {
  const ParallelConfig& parallel = config.parallel;
  const int64_t others = parallel.pp * parallel.cp * parallel.tp;
  if (ranks % others != 0) {
    throw ConfigError({fmt::format("parallel.pp = {} does not divide the number of ranks, {}", parallel.pp, ranks),
                       source.where_of("parallel.pp"), divisors(ranks), "`--ranks N` sets the number of ranks"});
  }
  const int64_t dp = parallel.dp != 0 ? parallel.dp : ranks / others;
  if (dp * others != ranks) {
    throw ConfigError({fmt::format("parallel.dp = {} x pp = {} = {} ranks, but {} were started", dp, parallel.pp, dp * others, ranks),
                       source.where_of("parallel.dp"),
                       fmt::format("parallel.dp = {}, or `--ranks {}`", ranks / others, dp * others),
                       {}});
  }
  const TrainConfig& train = config.train;
  if (train.batch_size % (dp * train.micro_batch_size) != 0) {
    throw ConfigError({fmt::format("train.batch_size = {} is no multiple of parallel.dp x train.micro_batch_size = {} x {}",
                                   train.batch_size, dp, train.micro_batch_size),
                       source.where_of("train.batch_size"),
                       fmt::format("multiples of {}", dp * train.micro_batch_size),
                       {}});
  }
  Layout layout;
  layout.degrees = {static_cast<int>(parallel.pp), static_cast<int>(dp), static_cast<int>(parallel.cp), static_cast<int>(parallel.tp)};
  layout.zero = static_cast<int>(parallel.zero);
  layout.batch_size = train.batch_size, layout.micro_batch_size = train.micro_batch_size;
  layout.schedule = parallel.schedule;
  if (layout.micro_batches() > 32767) {
    throw ConfigError({fmt::format("{} micro-batches a step are too many", layout.micro_batches()),
                       source.where_of("train.micro_batch_size"),
                       "at most 32767",
                       {}});
  }
  return layout;
}

/// Bytes of all ranks, in floating point so that nothing overflows: at least what is stored, within a small factor of it.
static double rough_bytes(const ResolvedRun& run) {
  const ModelSpec& model = run.model;
  const Layout& layout = run.layout;
  const double width = 4.0 * static_cast<double>(model.hidden + model.attention_width()) + 3.0 * static_cast<double>(model.ffn) +
                       static_cast<double>(model.heads);
  const int64_t in_flight =
      layout.schedule == "gpipe" ? layout.micro_batches() : std::min<int64_t>(layout.micro_batches(), layout.degree(Axis::Pp));
  const double kept = static_cast<double>(run.micro_batch.rows()) * width * static_cast<double>(model.layers * in_flight);
  return layout.degree(Axis::Dp) * (16 * rough_parameter_count(model) + 4 * kept);
}

/// Counts of tokens have 32 bits in kernels, and sums of bytes 64.
static void check_countable(const ResolvedRun& run, const ConfigSource& source) {
  constexpr int64_t most_rows = std::numeric_limits<int32_t>::max();
  if (run.micro_batch.rows() > most_rows) {
    throw ConfigError({fmt::format("train.micro_batch_size = {} of {} tokens each is too large", run.micro_batch.B, run.micro_batch.T),
                       source.where_of("train.micro_batch_size"),
                       fmt::format("1 to {}", most_rows / run.micro_batch.T),
                       {}});
  }
  constexpr double most_bytes = 1e18;
  if (rough_bytes(run) > most_bytes) {
    throw ConfigError({fmt::format("all ranks together would need about {:.2g} bytes, more than can be counted", rough_bytes(run)),
                       "[model], [train] and [parallel]", fmt::format("at most {:.0e} bytes", most_bytes),
                       "lower the model's sizes, train.micro_batch_size or parallel.dp"});
  }
}

static std::string absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

/// Writes what `run` found out into the keys that left it open.
static void write_out(RunConfig& config, const ResolvedRun& run) {
  const ModelSpec& spec = run.model;
  ModelConfig& model = config.model;
  model.architecture = spec.architecture, model.tied = spec.tied;
  model.layers = spec.layers, model.hidden = spec.hidden, model.heads = spec.heads, model.kv_heads = spec.kv_heads;
  model.head_dim = spec.head_dim, model.ffn = spec.ffn, model.vocab = spec.vocab, model.context = spec.context;
  model.norm_epsilon = spec.norm_epsilon, model.init_std = spec.init_std, model.rope_theta = spec.rope_theta;
  config.data.path = absolute(config.data.path), config.data.tokenizer = absolute(config.data.tokenizer);
  for (std::string& path : config.data.paths) path = absolute(path);
  if (run.tuning_file()) config.train.tuning = absolute(config.train.tuning);
  config.precision.compute = name_of(run.precision.compute);
  config.train.sequence = run.micro_batch.T;
  config.parallel.dp = run.layout.degree(Axis::Dp), config.parallel.threads = run.threads;
}

static DType dtype_named(const std::string& name) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw InternalError("no type is called " + name);
}

int threads_of_a_rank(const RunConfig& config, int ranks) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return config.parallel.threads != 0 ? static_cast<int>(config.parallel.threads) : std::max(1, cores / ranks);
}

static Precision resolve_precision(const PrecisionConfig& config, const ConfigSource& source, DType fast) {
  Precision precision{.compute = config.compute == "auto" ? fast : dtype_named(config.compute),
                      .master = dtype_named(config.master),
                      .gradient = dtype_named(config.gradients),
                      .moment = dtype_named(config.moments)};
  if (precision.compute == DType::f32 && precision.master != DType::f32) {
    throw ConfigError({"precision.master = \"bf16\" is narrower than precision.compute = \"fp32\"",
                       source.where_of("precision.master"),
                       "fp32, or precision.compute = \"bf16\" or \"fp16\"",
                       {}});
  }
  if (std::exp2(std::round(std::log2(config.loss_scale))) != config.loss_scale) {
    throw ConfigError({fmt::format("precision.loss_scale = {} is no power of two", config.loss_scale),
                       source.where_of("precision.loss_scale"),
                       "1, 2, 4, ... 16777216",
                       {}});
  }
  return precision;
}

/// Packing a weight costs about as much as 2048 tokens gain by it.
static bool resolve_packed_weights(const ResolvedRun& run, const ConfigSource& source, DeviceKind device) {
  constexpr int64_t worth_it_tokens = 2048;
  const std::string& key = run.config.precision.packed_weights;
  const bool cpu = device == DeviceKind::Cpu;
  if (key == "off") return false;
  if (key == "auto") {
    const int64_t tokens = run.tokens_per_step() / run.layout.degree(Axis::Dp);
    return cpu && run.precision.compute == DType::bf16 && processor_gains_by_packed_weights() && tokens >= worth_it_tokens;
  }
  const bool bf16 = run.precision.compute == DType::bf16;
  if (cpu && bf16 && processor_packs_weights()) return true;
  const std::string lacking = !cpu    ? "--device cpu"
                              : !bf16 ? fmt::format("bf16, and precision.compute is {}", name_of(run.precision.compute))
                                      : "a processor with AVX-512";
  throw ConfigError({"precision.packed_weights = \"on\" needs " + lacking, source.where_of("precision.packed_weights"), "auto, off", {}});
}

ResolvedRun resolve(const RunConfig& config, const ConfigSource& source, int ranks, int64_t tokenizer_vocab, RunsOn where) {
  ResolvedRun run;
  run.config = config;
  run.model = resolve_model(config, source, tokenizer_vocab);
  run.layout = resolve_layout(config, source, ranks);
  const int64_t T = config.train.sequence != 0 ? config.train.sequence : run.model.context;
  if (T > run.model.context) {
    throw ConfigError({fmt::format("train.sequence = {} is longer than model.context = {}", T, run.model.context),
                       source.where_of("train.sequence"),
                       fmt::format("1 to {}", run.model.context),
                       {}});
  }
  if (config.parallel.pp > run.model.layers) {
    throw ConfigError(
        {fmt::format("parallel.pp = {} needs at least as many blocks, but model.layers = {}", config.parallel.pp, run.model.layers),
         source.where_of("parallel.pp"),
         fmt::format("1 to {}", run.model.layers),
         {}});
  }
  run.precision = resolve_precision(config.precision, source, where.fast);
  run.micro_batch = {config.train.micro_batch_size, T, run.precision.compute};
  constexpr int64_t most_narrow_vocab = 1 << 20;  // a row of logits in fp32 stands beside each thread's 16-bit one (kernels/cpu/loss.cpp)
  if (run.precision.compute != DType::f32 && run.model.vocab > most_narrow_vocab) {
    throw ConfigError({fmt::format("model.vocab = {} is too large for logits of 16 bits", run.model.vocab),
                       source.where_of("model.vocab"),
                       fmt::format("2 to {}, or precision.compute = \"fp32\"", most_narrow_vocab),
                       {}});
  }
  run.precision.packed_weights = resolve_packed_weights(run, source, where.device);
  check_countable(run, source);
  run.threads = threads_of_a_rank(config, ranks);
  write_out(run.config, run);
  if (config.train.minutes == 0) run.set_steps(config.train.steps);
  return run;
}

bool keeps_loss_scale(const std::string& saved_toml, const ResolvedRun& run) {
  RunConfig saved;
  read_toml_text(saved_toml, "the checkpoint", saved);
  return std::ranges::none_of(differences(saved.precision, run.config.precision),
                              [](const auto& change) { return change.key == "compute" || change.key.starts_with("loss_scale"); });
}

void expect_same_run(const std::string& saved_toml, const ResolvedRun& run, const std::string& where) {
  RunConfig saved;
  ConfigSource source;
  read_toml_text(saved_toml, where, saved, &source);
  const ParallelConfig& parallel = saved.parallel;
  const auto ranks = static_cast<int>(parallel.pp * parallel.dp * parallel.cp * parallel.tp);
  saved.precision.packed_weights = "off";           // the machine that saved may have had what this one lacks
  saved = resolve(saved, source, ranks, 0).config;  // keys that are younger than the checkpoint follow from the others
  std::string found, legal;
  for (const auto& [key, before, now] : differences(saved, run.config)) {
    static const std::set<std::string> fixed = {"data.validation_fraction", "data.weights", "optimizer.name", "train.seed",
                                                "train.sequence"};
    if (!key.starts_with("model.") && !fixed.contains(key)) continue;
    found += fmt::format("{}{} = {}, but {} in the checkpoint", found.empty() ? "" : "; ", key, now, before);
    legal += fmt::format("{}{} = {}", legal.empty() ? "" : ", ", key, before);
  }
  if (!found.empty())
    throw ConfigError({"this is another run than the saved one: " + found, where, legal, "another --run-dir starts another run"});
}

OptimizerSettings ResolvedRun::optimizer() const {
  const OptimizerConfig& o = config.optimizer;
  return {.rule = update_rule_named(o.name),
          .beta1 = o.beta1,
          .beta2 = o.beta2,
          .epsilon = o.epsilon,
          .weight_decay = o.weight_decay,
          .seed = static_cast<uint64_t>(config.train.seed),
          .moment = precision.moment};
}

LossScaling ResolvedRun::loss_scaling() const {
  const PrecisionConfig& p = config.precision;
  if (precision.compute != DType::f16) return {};
  return {.dynamic = p.loss_scale_dynamic,
          .initial = static_cast<float>(p.loss_scale),
          .growth_steps = static_cast<int32_t>(p.loss_scale_growth_steps),
          .hysteresis = static_cast<int32_t>(p.loss_scale_hysteresis)};
}

LearningRateCurve ResolvedRun::learning_rate() const {
  const OptimizerConfig& o = config.optimizer;
  return {.shape = learning_rate_shape_named(o.schedule),
          .peak = o.learning_rate,
          .final_fraction = o.final_fraction,
          .warmup_steps = o.warmup_steps,
          .decay_steps = o.decay_steps,
          .steps = config.train.steps};
}

void ResolvedRun::set_steps(int64_t steps) {
  TrainConfig& train = config.train;
  train.steps = steps, train.minutes = 0;
  if (train.eval_every == 0) train.eval_every = std::max<int64_t>(1, steps / 10);
  if (config.optimizer.decay_steps == 0) config.optimizer.decay_steps = std::max<int64_t>(1, steps / 5);
}

}  // namespace tessera
