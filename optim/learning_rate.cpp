#include "optim/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"

namespace tessera {

LearningRateShape learning_rate_shape_named(std::string_view name) {
  if (name == "constant") return LearningRateShape::Constant;
  if (name == "linear") return LearningRateShape::Linear;
  if (name == "cosine") return LearningRateShape::Cosine;
  if (name == "wsd") return LearningRateShape::Wsd;
  throw InternalError("no learning-rate curve is called " + std::string(name));
}

double learning_rate(const LearningRateCurve& curve, int64_t step) {
  const int64_t last = curve.steps - 1;
  if (step < curve.warmup_steps) return curve.peak * static_cast<double>(step + 1) / static_cast<double>(curve.warmup_steps);
  if (curve.shape == LearningRateShape::Constant) return curve.peak;
  const double least = curve.peak * curve.final_fraction;
  if (step >= last) return least;
  const bool stays = curve.shape == LearningRateShape::Wsd;
  const int64_t falls_from = stays ? std::max(curve.warmup_steps, last - curve.decay_steps) : curve.warmup_steps;
  if (step <= falls_from) return curve.peak;
  const double progress = static_cast<double>(step - falls_from) / static_cast<double>(last - falls_from);
  const double left = curve.shape == LearningRateShape::Cosine ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - progress;
  return least + (curve.peak - least) * left;
}

}  // namespace tessera
