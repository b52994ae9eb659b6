#include "model/spec.h"

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

void check(const ModelSpec& spec) {
  const auto at_least = [](const char* key, int64_t value, int64_t least) {
    if (value < least)
      throw ConfigError({fmt::format("model.{} = {} is too small", key, value), "[model]", fmt::format("{} or more", least), {}});
  };
  if (spec.architecture != "gpt2")
    throw ConfigError({fmt::format("model.architecture = \"{}\" is unknown", spec.architecture), "[model]", "gpt2", {}});
  at_least("layers", spec.layers, 1);
  at_least("hidden", spec.hidden, 1);
  at_least("heads", spec.heads, 1);
  at_least("ffn", spec.ffn, 1);
  at_least("vocab", spec.vocab, 2);
  at_least("context", spec.context, 1);
  at_least("head_dim", spec.head_dim, 1);
  if (spec.head_dim > 256) {
    throw ConfigError({fmt::format("attention heads of width {} are too wide", spec.head_dim),
                       "[model]",
                       "model.hidden / model.heads, or model.head_dim, up to 256",
                       {}});
  }
}

}  // namespace tessera
