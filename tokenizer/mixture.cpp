#include "tokenizer/mixture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace tessera {

constexpr int64_t max_period = 1'000'000;  // keeps the table small and every product below exact
constexpr double max_weight = 1e12;

/// The weights as integers without a common divisor; empty when that takes more than six decimals.
static std::vector<int64_t> as_integers(const std::vector<double>& weights) {
  for (double unit = 1; unit <= 1e6; unit *= 10) {
    std::vector<int64_t> integers;
    for (double weight : weights) {
      const double scaled = weight * unit, nearest = std::round(scaled);
      if (nearest >= 1 && std::abs(scaled - nearest) < 1e-9) integers.push_back(static_cast<int64_t>(nearest));
    }
    if (integers.size() != weights.size()) continue;
    const int64_t divisor =
        std::accumulate(integers.begin(), integers.end(), int64_t{0}, [](int64_t a, int64_t b) { return std::gcd(a, b); });
    for (int64_t& integer : integers) integer /= divisor;
    return integers;
  }
  return {};
}

MixOrder::MixOrder(const std::vector<double>& weights) {
  invariant(!weights.empty(), "a mixture has at least one data set");
  const auto refuse = [&](const std::string& why) {
    throw ConfigError({fmt::format("data.weights = [{}] {}", fmt::join(weights, ", "), why), "[data]",
                       fmt::format("numbers above 0 with at most six decimals that, written as integers, add up to at most {}", max_period),
                       "[1, 2] in place of [0.33333333, 0.66666667]"});
  };
  if (!std::all_of(weights.begin(), weights.end(), [](double weight) { return weight > 0 && weight <= max_weight; }))
    refuse("are not all above 0 and finite");
  weights_ = as_integers(weights);
  if (weights_.empty()) refuse("need more than six decimals");
  int64_t period = 0;
  for (int64_t weight : weights_) period += weight;
  if (period > max_period) refuse(fmt::format("repeat after {} samples only", period));

  const size_t sets = weights_.size();
  std::vector<int64_t> taken(sets);
  for (int64_t n = 1; n <= period; n++) {
    size_t next = sets;
    for (size_t d = 0; d < sets; d++) {
      const bool too_early = taken[d] * period >= n * weights_[d];
      // Set d must have its next sample after (taken + 1) / share samples in all.
      if (!too_early && (next == sets || (taken[d] + 1) * weights_[next] < (taken[next] + 1) * weights_[d])) next = d;
    }
    invariant(next < sets, "no data set may take a sample");
    order_.push_back({static_cast<int32_t>(next), static_cast<int32_t>(taken[next]++)});
  }
}

MixOrder::Place MixOrder::place(int64_t i) const {
  invariant(i >= 0, "sample indices count from 0");
  const Entry entry = order_[static_cast<size_t>(i % period())];
  return {entry.set, i / period() * weights_[static_cast<size_t>(entry.set)] + entry.index};
}

int64_t MixOrder::samples_before_repeat(std::span<const int64_t> samples) const {
  invariant(samples.size() == weights_.size(), "each data set has its number of samples");
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t r = 0; r < period(); r++) {
    const Entry entry = order_[static_cast<size_t>(r)];
    const auto set = static_cast<size_t>(entry.set);
    if (samples[set] % weights_[set] == entry.index) least = std::min(least, samples[set] / weights_[set] * period() + r);
  }
  return least;
}

MixedSource::MixedSource(std::vector<SampleSource> sources, const std::vector<double>& weights)
    : sources_(std::move(sources)), order_(weights) {
  invariant(sources_.size() == weights.size(), "each data set has its weight");
}

int64_t MixedSource::samples_per_epoch() const {
  std::vector<int64_t> samples;
  for (const SampleSource& source : sources_) samples.push_back(source.samples_per_epoch());
  return order_.samples_before_repeat(samples);
}

void MixedSource::sample(int64_t i, std::span<int32_t> tokens) const {
  const MixOrder::Place place = order_.place(i);
  sources_[static_cast<size_t>(place.set)].sample(place.index, tokens);
}

}  // namespace tessera
