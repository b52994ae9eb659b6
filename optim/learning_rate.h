#pragma once
#include <cstdint>

namespace tessera {

/// Linear warm-up, then a cosine down to a fraction of the peak.      Loshchilov & Hutter 2017, arXiv:1608.03983
struct LearningRateCurve {
  double peak = 1e-3;
  double final_fraction = 0.1;  // of the peak, reached at the last step
  int64_t warmup_steps = 0;
  int64_t steps = 1;
};

/// The rate of step s in [0, steps): follows the step number, skipped steps included.
/// peak (s + 1) / warmup_steps while s < warmup_steps; final_fraction x peak exactly at s = steps - 1 and behind it,
/// unless the warm-up lasts longer.
double learning_rate(const LearningRateCurve& curve, int64_t step);

}  // namespace tessera
