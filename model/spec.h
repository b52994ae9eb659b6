#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace tessera {

/// Upper bounds of a model's sizes, far above every published one: with them no count of parameters, and of their bytes, overflows 64 bits.
constexpr int64_t most_layers = 1 << 14, most_width = 1 << 24, most_head_dim = 256, most_vocab = 1 << 30, most_context = 1 << 24;
constexpr double most_parameters = 1e15;

/// The shape of a decoder-only transformer: plain data. hidden: width of the residual stream; head_dim: width of a head, heads x head_dim
/// may differ from hidden; kv_heads: key/value heads, each shared by heads / kv_heads query heads; ffn: width inside the MLP; context: the
/// most positions of a sequence.
///
///            norm       positions   MLP       biases
///   gpt2     LayerNorm  learned     GELU      everywhere but in the head
///   llama    RMSNorm    rotary      SwiGLU    none
struct ModelSpec {
  std::string architecture = "gpt2";
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0, context = 0;
  bool tied = true;  // the head repeats the token embedding
  double norm_epsilon = 1e-5;
  double init_std = 0.02;  // residual projections: divided by sqrt(2 layers)
  double rope_theta = 10000;

  bool is_llama() const { return architecture == "llama"; }
  double residual_init_std() const;
  int64_t attention_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  bool operator==(const ModelSpec&) const = default;
};

/// Parameters to a few percent, in floating point: of any sizes, also of ones that no integer counts.
double rough_parameter_count(const ModelSpec& spec);

/// ConfigError naming the key, the value and what would be legal.
void check(const ModelSpec& spec);

/// B sequences of T tokens: one micro-batch, its activations in `dtype`.
struct BatchShape {
  int64_t B = 0, T = 0;
  DType dtype = DType::f32;
  int64_t rows() const { return B * T; }
  bool operator==(const BatchShape&) const = default;
};

/// A published model under the name that model.preset takes (docs/decisions/0004-presets-as-a-table.md).
struct ModelPreset {
  std::string name;
  ModelSpec spec;
  std::string source;  // paper, table, and our choice where it contradicts itself
};
const std::vector<ModelPreset>& model_presets();
/// ConfigError with the nearest names for an unknown one.
const ModelPreset& model_preset(const std::string& name);

}  // namespace tessera
