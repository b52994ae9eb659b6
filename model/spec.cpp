#include "model/spec.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace tessera {

double rough_parameter_count(const ModelSpec& spec) {
  const auto h = static_cast<double>(spec.hidden), w = static_cast<double>(spec.heads) * static_cast<double>(spec.head_dim);
  const double block = 4 * h * w + (spec.is_llama() ? 3 : 2) * h * static_cast<double>(spec.ffn);
  return static_cast<double>(spec.layers) * block + h * static_cast<double>((spec.tied ? 1 : 2) * spec.vocab + spec.context);
}

void check(const ModelSpec& spec) {
  const auto within = [](const char* key, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
      throw ConfigError({fmt::format("model.{} = {} is too {}", key, value, value < least ? "small" : "large"),
                         "[model]",
                         fmt::format("{} to {}", least, most),
                         {}});
    }
  };
  if (spec.architecture != "gpt2" && spec.architecture != "llama")
    throw ConfigError({fmt::format("model.architecture = \"{}\" is unknown", spec.architecture), "[model]", "gpt2, llama", {}});
  within("layers", spec.layers, 1, most_layers);
  within("hidden", spec.hidden, 1, most_width);
  within("heads", spec.heads, 1, most_width);
  within("kv_heads", spec.kv_heads, 1, spec.heads);
  within("ffn", spec.ffn, 1, 4 * most_width);
  within("vocab", spec.vocab, 2, most_vocab);
  within("context", spec.context, 1, most_context);
  if (spec.head_dim < 1 || spec.head_dim > most_head_dim) {
    throw ConfigError({fmt::format("attention heads of width {} are too {}", spec.head_dim, spec.head_dim < 1 ? "narrow" : "wide"),
                       "[model]",
                       fmt::format("model.hidden / model.heads, or model.head_dim, from 1 to {}", most_head_dim),
                       {}});
  }
  if (spec.heads % spec.kv_heads != 0) {
    throw ConfigError({fmt::format("model.kv_heads = {} does not divide model.heads = {}", spec.kv_heads, spec.heads),
                       "[model]",
                       "a divisor of model.heads",
                       {}});
  }
  if (spec.head_dim % 8 != 0) {
    throw ConfigError({fmt::format("attention heads of width {} are no multiple of 8", spec.head_dim),
                       "[model]",
                       "model.hidden / model.heads, or model.head_dim, a multiple of 8",
                       {}});
  }
  if (!spec.is_llama() && spec.kv_heads != spec.heads) {
    throw ConfigError({fmt::format("model.kv_heads = {} but gpt2 has one for each of its {} heads", spec.kv_heads, spec.heads), "[model]",
                       std::to_string(spec.heads), "model.architecture = \"llama\" shares key/value heads"});
  }
  if (rough_parameter_count(spec) > most_parameters) {
    throw ConfigError({fmt::format("a model of {:.2g} parameters is too large", rough_parameter_count(spec)), "[model]",
                       fmt::format("at most {:.0e} parameters", most_parameters),
                       "lower model.layers, model.hidden, model.ffn, model.vocab or model.context"});
  }
}

double ModelSpec::residual_init_std() const { return init_std / std::sqrt(2.0 * static_cast<double>(layers)); }

}  // namespace tessera
