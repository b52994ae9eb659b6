#include "engine/run_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <thread>

#include "base/error.h"

namespace tessera {

static ModelSpec resolve_model(const RunConfig& run, const ConfigSource& source, int64_t tokenizer_vocab) {
  const ModelConfig& config = run.model;
  ModelSpec spec;
  if (!config.preset.empty()) spec = model_preset(config.preset).spec;
  const bool other_width = config.hidden != 0 || config.heads != 0;
  const auto take = [](int64_t& field, int64_t given) {
    if (given != 0) field = given;
  };
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
  spec.ffn = config.ffn != 0 ? config.ffn : 4 * spec.hidden;
  spec.architecture = config.architecture, spec.tied = config.tied, spec.norm_epsilon = config.norm_epsilon,
  spec.init_std = config.init_std;
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
  const double width = 4.0 * static_cast<double>(model.hidden + model.attention_width()) + 2.0 * static_cast<double>(model.ffn) +
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
  model.layers = spec.layers, model.hidden = spec.hidden, model.heads = spec.heads, model.head_dim = spec.head_dim;
  model.ffn = spec.ffn, model.vocab = spec.vocab, model.context = spec.context;
  config.data.path = absolute(config.data.path), config.data.tokenizer = absolute(config.data.tokenizer);
  for (std::string& path : config.data.paths) path = absolute(path);
  config.train.sequence = run.micro_batch.T;
  config.parallel.dp = run.layout.degree(Axis::Dp), config.parallel.threads = run.threads;
}

ResolvedRun resolve(const RunConfig& config, const ConfigSource& source, int ranks, int64_t tokenizer_vocab) {
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
  run.micro_batch = {config.train.micro_batch_size, T};
  check_countable(run, source);
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  run.threads = config.parallel.threads != 0 ? static_cast<int>(config.parallel.threads) : std::max(1, cores / ranks);
  write_out(run.config, run);
  if (config.train.minutes == 0) run.set_steps(config.train.steps);
  return run;
}

void expect_same_run(const std::string& saved_toml, const ResolvedRun& run, const std::string& where) {
  RunConfig saved;
  read_toml_text(saved_toml, where, saved);
  const ParallelConfig& parallel = saved.parallel;
  const auto ranks = static_cast<int>(parallel.pp * parallel.dp * parallel.cp * parallel.tp);
  saved = resolve(saved, {}, ranks, 0).config;  // keys that are younger than the checkpoint follow from the others
  std::string found, legal;
  for (const auto& [key, before, now] : differences(saved, run.config)) {
    if (!key.starts_with("model.") && key != "data.validation_fraction" && key != "train.seed" && key != "train.sequence") continue;
    found += fmt::format("{}{} = {}, but {} in the checkpoint", found.empty() ? "" : "; ", key, now, before);
    legal += fmt::format("{}{} = {}", legal.empty() ? "" : ", ", key, before);
  }
  if (!found.empty())
    throw ConfigError({"this is another run than the saved one: " + found, where, legal, "another --run-dir starts another run"});
}

AdamWConfig ResolvedRun::adamw() const {
  const OptimizerConfig& o = config.optimizer;
  return {o.beta1, o.beta2, o.epsilon, o.weight_decay};
}

LearningRateCurve ResolvedRun::learning_rate() const {
  const OptimizerConfig& o = config.optimizer;
  return {o.learning_rate, o.final_fraction, o.warmup_steps, config.train.steps};
}

void ResolvedRun::set_steps(int64_t steps) {
  TrainConfig& train = config.train;
  train.steps = steps, train.minutes = 0;
  if (train.eval_every == 0) train.eval_every = std::max<int64_t>(1, steps / 10);
}

}  // namespace tessera
