#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace tessera {

/// What a random number is for: part of the key, so that streams never meet.
enum class RandomPurpose : uint32_t { Init = 1, DataOrder = 2, Sample = 3, Rounding = 4 };

/// Philox 4x32 with ten rounds: four independent 32-bit words from a 128-bit counter and a 64-bit key.
/// Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC11), doi:10.1145/2063384.2063405
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// x with P(a standard normal is below x) = p, for 0 < p < 1; relative error about 1e-15.
/// Uses + - x / sqrt only, the logarithm of the tails included, so that every device rounds alike (with contraction off).
/// Wichura 1988, Algorithm AS 241 (PPND16), Applied Statistics 37(3), doi:10.2307/2347330
double normal_quantile(double p);

/// Counter-based random numbers: element i of a stream is a function of (seed, purpose, name, step, i) alone,
/// so any rank, thread or device draws the same numbers in any order.
class RandomStream {
 public:
  /// For callers that round nothing: the stream of key 0.
  RandomStream() : key_{}, step_(0) {}
  RandomStream(uint64_t seed, RandomPurpose purpose, std::string_view name = {}, uint64_t step = 0);

  /// What `words` is a function of, for code that draws many at a time: philox4x32 with counter {i, step} and this key.
  std::array<uint32_t, 2> key() const { return key_; }
  uint64_t step() const { return step_; }
  /// The stream of the same seed, purpose and name at another step.
  RandomStream at(uint64_t step) const;
  /// Four independent 32-bit words for counter i.
  std::array<uint32_t, 4> words(uint64_t i) const;
  /// 16 random bits, eight times as many as counters: half word h is the (h mod 8)th of words(h / 8), low halves first.
  uint16_t half_word(uint64_t h) const;
  /// Uniform in [0, 1) with 53 bits.
  double uniform(uint64_t i) const;
  /// Standard normal: normal_quantile at the middle of one of 2^53 equal cells, rounded to fp32. At most 8.3 in size, tails exact up
  /// to there.
  float normal(uint64_t i) const;
  /// Uniform integer in [0, bound), bound >= 1, without modulo bias worth speaking of (64-bit multiply-high).
  uint64_t below(uint64_t i, uint64_t bound) const;

 private:
  std::array<uint32_t, 2> key_;  // of seed, purpose and name
  uint64_t step_;                // the upper half of the counter; i is the lower
};

/// A bijection of [0, n) keyed by the stream: element i of a shuffled epoch without storing the shuffle
/// (a four-round Feistel network with cycle walking, Black & Rogaway 2002). InternalError when i >= n or n > 2^62.
uint64_t permute(const RandomStream& stream, uint64_t i, uint64_t n);

}  // namespace tessera
