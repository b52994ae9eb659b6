#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"

namespace tessera {

int32_t pick_token(std::span<const float> logits, const SamplingOptions& options, double uniform) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.temperature == 0) return ids.front();
  if (options.top_k > 0) ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(options.top_k)));
  std::vector<double> weights(ids.size());
  for (size_t i = 0; i < ids.size(); i++)
    weights[i] = std::exp((static_cast<double>(logits[ids[i]]) - logits[ids.front()]) / options.temperature);
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  size_t count = 0;
  while (count < ids.size() && (count == 0 || kept < options.top_p * all)) kept += weights[count++];
  double left = uniform * kept;
  for (size_t i = 0; i < count; i++) {
    left -= weights[i];
    if (left < 0) return ids[i];
  }
  return ids[count - 1];
}

void sample(Trainer& trainer, std::vector<int32_t> tokens, const SamplingOptions& options, const std::function<bool(int32_t)>& emit) {
  const RandomStream random(options.seed, RandomPurpose::Sample);
  const size_t window = static_cast<size_t>(trainer.run().micro_batch.T);
  for (int64_t i = 0; i < options.tokens; i++) {
    const size_t seen = std::min(tokens.size(), window);
    const std::vector<float> logits = trainer.next_logits(std::span(tokens).last(seen));
    tokens.push_back(pick_token(logits, options, random.uniform(static_cast<uint64_t>(i))));
    if (!emit(tokens.back())) return;
  }
}

}  // namespace tessera
