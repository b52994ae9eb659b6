#include <algorithm>

#include "base/edit_distance.h"
#include "base/error.h"
#include "model/spec.h"

namespace tessera {

static ModelPreset gpt2(const char* name, int64_t layers, int64_t hidden, int64_t heads, int64_t vocab, int64_t context,
                        const char* source) {
  ModelSpec spec;
  spec.layers = layers, spec.hidden = hidden, spec.heads = spec.kv_heads = heads, spec.head_dim = hidden / heads, spec.ffn = 4 * hidden;
  spec.vocab = vocab, spec.context = context;
  return {name, spec, source};
}

/// LLaMA's shapes; untied unless said otherwise.
struct LlamaSizes {
  int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context;
  double norm_epsilon, rope_theta;
  bool tied = false;
};

static ModelPreset llama(const char* name, const LlamaSizes& sizes, const char* source) {
  ModelSpec spec;
  spec.architecture = "llama";
  spec.layers = sizes.layers, spec.hidden = sizes.hidden, spec.heads = sizes.heads, spec.kv_heads = sizes.kv_heads;
  spec.head_dim = sizes.head_dim, spec.ffn = sizes.ffn, spec.vocab = sizes.vocab, spec.context = sizes.context;
  spec.norm_epsilon = sizes.norm_epsilon, spec.rope_theta = sizes.rope_theta, spec.tied = sizes.tied;
  return {name, spec, source};
}

const std::vector<ModelPreset>& model_presets() {
  constexpr const char* radford = "Radford et al. 2019, Table 2; vocabulary 50257, context 1024";
  constexpr const char* brown = "Brown et al. 2020, arXiv:2005.14165, Table 2.1";
  constexpr const char* xl =
      "Brown et al. 2020, Table 2.1 gives 24 heads of 128 for a width of 2048: we take the width, so 16 heads of 128";
  constexpr const char* brown13 = "Brown et al. 2020, Table 2.1 gives a width of 5140 for 40 heads of 128: we take the heads, so 5120";
  constexpr const char* narayanan = "Narayanan et al. 2021, arXiv:2104.04473, Table 1; vocabulary 51200, sequence 2048";
  constexpr const char* touvron =
      "Touvron et al. 2023, arXiv:2302.13971, Table 2; ffn, vocabulary 32000 and epsilon of the published weights";
  constexpr const char* dubey = "Dubey et al. 2024, arXiv:2407.21783, Table 3; vocabulary 128256; pretraining context 8192";
  constexpr const char* llama32 =
      "published weights of Llama 3.2 1B, tied; context 8192 as in pretraining, without the frequency scaling that stretches it later";
  //  name, layers, hidden, heads, vocabulary, context
  static const std::vector<ModelPreset> presets = {
      gpt2("gpt2-124m", 12, 768, 12, 50257, 1024, radford),
      gpt2("gpt2-355m", 24, 1024, 16, 50257, 1024, radford),
      gpt2("gpt2-774m", 36, 1280, 20, 50257, 1024, radford),
      gpt2("gpt2-1558m", 48, 1600, 25, 50257, 1024, radford),
      gpt2("gpt3-small", 12, 768, 12, 50257, 2048, brown),
      gpt2("gpt3-medium", 24, 1024, 16, 50257, 2048, brown),
      gpt2("gpt3-large", 24, 1536, 16, 50257, 2048, brown),
      gpt2("gpt3-xl", 24, 2048, 16, 50257, 2048, xl),
      gpt2("gpt3-2.7b", 32, 2560, 32, 50257, 2048, brown),
      gpt2("gpt3-6.7b", 32, 4096, 32, 50257, 2048, brown),
      gpt2("gpt3-13b", 40, 5120, 40, 50257, 2048, brown13),
      gpt2("gpt3-175b", 96, 12288, 96, 50257, 2048, brown),
      gpt2("megatron-1.7b", 24, 2304, 24, 51200, 2048, narayanan),
      gpt2("megatron-3.6b", 30, 3072, 32, 51200, 2048, narayanan),
      gpt2("megatron-7.5b", 36, 4096, 32, 51200, 2048, narayanan),
      gpt2("megatron-18b", 40, 6144, 48, 51200, 2048, narayanan),
      gpt2("megatron-39b", 48, 8192, 64, 51200, 2048, narayanan),
      gpt2("megatron-76b", 60, 10240, 80, 51200, 2048, narayanan),
      gpt2("megatron-145b", 80, 12288, 96, 51200, 2048, narayanan),
      gpt2("megatron-310b", 96, 16384, 128, 51200, 2048, narayanan),
      gpt2("megatron-530b", 105, 20480, 128, 51200, 2048, narayanan),
      gpt2("megatron-1t", 128, 25600, 160, 51200, 2048, narayanan),
      llama("llama-7b", {32, 4096, 32, 32, 128, 11008, 32000, 2048, 1e-6, 10000}, touvron),
      llama("llama-13b", {40, 5120, 40, 40, 128, 13824, 32000, 2048, 1e-6, 10000}, touvron),
      llama("llama-33b", {60, 6656, 52, 52, 128, 17920, 32000, 2048, 1e-6, 10000}, touvron),
      llama("llama-65b", {80, 8192, 64, 64, 128, 22016, 32000, 2048, 1e-5, 10000}, touvron),
      llama("llama-3.2-1b", {16, 2048, 32, 8, 64, 8192, 128256, 8192, 1e-5, 500000, true}, llama32),
      llama("llama-3-8b", {32, 4096, 32, 8, 128, 14336, 128256, 8192, 1e-5, 500000}, dubey),
      llama("llama-3-70b", {80, 8192, 64, 8, 128, 28672, 128256, 8192, 1e-5, 500000}, dubey),
      llama("llama-3-405b", {126, 16384, 128, 8, 128, 53248, 128256, 8192, 1e-5, 500000}, dubey),
  };
  return presets;
}

const ModelPreset& model_preset(const std::string& name) {
  std::string legal;
  std::vector<std::string> names;
  for (const ModelPreset& preset : model_presets()) {
    if (preset.name == name) return preset;
    legal += (legal.empty() ? "" : ", ") + preset.name;
    names.push_back(preset.name);
  }
  const std::string nearest = nearest_name(name, names);
  throw ConfigError(
      {"model.preset = \"" + name + "\" is unknown", "[model]", legal, nearest.empty() ? "" : "did you mean `" + nearest + "`?"});
}

}  // namespace tessera
