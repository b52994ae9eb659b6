#include "optim/learning_rate.h"

#include <cmath>
#include <numbers>

namespace tessera {

double learning_rate(const LearningRateCurve& curve, int64_t step) {
  const double least = curve.peak * curve.final_fraction;
  if (step < curve.warmup_steps) return curve.peak * static_cast<double>(step + 1) / static_cast<double>(curve.warmup_steps);
  if (step >= curve.steps - 1) return least;
  const double progress = static_cast<double>(step - curve.warmup_steps) / static_cast<double>(curve.steps - 1 - curve.warmup_steps);
  return least + (curve.peak - least) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace tessera
