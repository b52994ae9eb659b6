#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/loader.h"

namespace tessera {

/// Which of several data sets each sample comes from, such that among the first n samples set d has between n share_d - 1 and n share_d + 1,
/// for every n. A function of the weights alone, repeating after as many samples as the weights, as integers without a common divisor, add
/// up to: 0.7, 0.2 and 0.1 repeat after 10. All functions are const and thread-safe.
///
/// Each sample takes the set whose next one is due first, among those that it would not carry ahead by a whole sample: the windows of
/// proportionate fairness, Baruah, Cohen, Plaxton and Varvel 1996, Algorithmica 15, doi:10.1007/BF01940883; on one machine the earliest
/// deadline meets them all.
class MixOrder {
 public:
  struct Place {
    int64_t set = 0, index = 0;  // sample `index` of `set`, counted over all epochs of that set
  };

  /// Weights in any unit. Throws ConfigError for weights that are not positive, or that need more than six decimals or a period above 10^6.
  explicit MixOrder(const std::vector<double>& weights);

  /// Of sample i >= 0.
  Place place(int64_t i) const;
  /// How many samples come before the first one that takes some set d for the (samples[d] + 1)th time.
  int64_t samples_before_repeat(std::span<const int64_t> samples) const;

 private:
  int64_t period() const { return static_cast<int64_t>(order_.size()); }

  struct Entry {
    int32_t set, index;  // within the period
  };
  std::vector<int64_t> weights_;  // samples of each set in a period
  std::vector<Entry> order_;
};

/// Samples of several data sets as one sequence. Each set takes every sample of its own epoch once before its next epoch begins, so sample i
/// is a function of (seed, i) alone here as well; of one set it is that set's sample i.
class MixedSource {
 public:
  /// All of the same sequence length; one weight each.
  MixedSource(std::vector<SampleSource> sources, const std::vector<double>& weights);

  /// The longest beginning in which no sample of any set comes twice.
  int64_t samples_per_epoch() const;
  /// Sample i >= 0; tokens [T + 1].
  void sample(int64_t i, std::span<int32_t> tokens) const;

 private:
  std::vector<SampleSource> sources_;
  MixOrder order_;
};

}  // namespace tessera
