#pragma once
#include <cstdint>
#include <string_view>

namespace tessera {

/// How the rate goes on after the linear warm-up:
///   Constant  stays at the peak, which is its final rate
///   Linear    falls on a line
///   Cosine    falls on half a cosine                                              Loshchilov & Hutter 2017, arXiv:1608.03983
///   Wsd       stays, then falls on a line over the last decay_steps            Hu et al. 2024, arXiv:2404.06395, who fall exponentially
enum class LearningRateShape : uint8_t { Constant, Linear, Cosine, Wsd };
/// "constant", "linear", "cosine", "wsd"; InternalError for another name.
LearningRateShape learning_rate_shape_named(std::string_view name);

struct LearningRateCurve {
  LearningRateShape shape = LearningRateShape::Cosine;
  double peak = 1e-3;
  double final_fraction = 0.1;  // of the peak, reached at the last step
  int64_t warmup_steps = 0;
  int64_t decay_steps = 1;  // of Wsd, at least 1
  int64_t steps = 1;
};

/// The rate of step s in [0, steps): follows the step number, skipped steps included.
/// peak (s + 1) / warmup_steps while s < warmup_steps; the final rate, peak or final_fraction x peak, exactly at s = steps - 1 and behind
/// it, unless the warm-up lasts longer.
double learning_rate(const LearningRateCurve& curve, int64_t step);

}  // namespace tessera
