#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/trainer.h"

namespace tessera {

struct SamplingOptions {
  double temperature = 0.8;  // 0: always the likeliest token
  int64_t top_k = 0;         // only the k likeliest; 0: all
  double top_p = 1;          // only the likeliest that together reach p
  int64_t tokens = 200;
  uint64_t seed = 1;
};

/// The token that `uniform` in [0, 1) picks from softmax(logits / temperature) after top-k, then top-p; ties go to the smaller id.
int32_t pick_token(std::span<const float> logits, const SamplingOptions& options, double uniform);

/// Continues `prompt` (at least one token): each new token is handed to `emit`, which returns false to end early. The model sees the last T tokens.
void sample(Trainer& trainer, std::vector<int32_t> prompt, const SamplingOptions& options, const std::function<bool(int32_t)>& emit);

}  // namespace tessera
