#include "model/spec.h"

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

double rough_parameter_count(const ModelSpec& spec) {
  const auto h = static_cast<double>(spec.hidden), w = static_cast<double>(spec.heads) * static_cast<double>(spec.head_dim);
  const double block = 4 * h * w + 2 * h * static_cast<double>(spec.ffn);
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
  if (spec.architecture != "gpt2")
    throw ConfigError({fmt::format("model.architecture = \"{}\" is unknown", spec.architecture), "[model]", "gpt2", {}});
  within("layers", spec.layers, 1, most_layers);
  within("hidden", spec.hidden, 1, most_width);
  within("heads", spec.heads, 1, most_width);
  within("ffn", spec.ffn, 1, 4 * most_width);
  within("vocab", spec.vocab, 2, most_vocab);
  within("context", spec.context, 1, most_context);
  if (spec.head_dim < 1 || spec.head_dim > most_head_dim) {
    throw ConfigError({fmt::format("attention heads of width {} are too {}", spec.head_dim, spec.head_dim < 1 ? "narrow" : "wide"),
                       "[model]",
                       fmt::format("model.hidden / model.heads, or model.head_dim, from 1 to {}", most_head_dim),
                       {}});
  }
  if (rough_parameter_count(spec) > most_parameters) {
    throw ConfigError({fmt::format("a model of {:.2g} parameters is too large", rough_parameter_count(spec)), "[model]",
                       fmt::format("at most {:.0e} parameters", most_parameters),
                       "lower model.layers, model.hidden, model.ffn, model.vocab or model.context"});
  }
}

}  // namespace tessera
