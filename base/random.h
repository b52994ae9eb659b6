#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace tessera {

/// What a random number is for: part of the key, so that streams never meet.
enum class RandomPurpose : uint32_t { Init = 1, DataOrder = 2, Sample = 3, Rounding = 4 };

/// Philox 4x32 with ten rounds: four independent 32-bit words from a 128-bit counter and a 64-bit key.
/// Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC11), doi:10.1145/2063384.2063405
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; round++) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0], right = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
               static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key[0] += 0x9E3779B9;  // the golden ratio and sqrt(3) - 1 as Weyl sequences
    key[1] += 0xBB67AE85;
  }
  return counter;
}

/// x with P(a standard normal is below x) = p, for 0 < p < 1; relative error about 1e-15.
/// Uses + - x / sqrt only, the logarithm of the tails included, so that every device rounds alike (with contraction off).
/// Wichura 1988, Algorithm AS 241 (PPND16), Applied Statistics 37(3), doi:10.2307/2347330
double normal_quantile(double p);

/// Counter-based random numbers: element i of a stream is a function of (seed, purpose, name, step, i) alone,
/// so any rank, thread or device draws the same numbers in any order. What is constexpr runs in CUDA kernels too.
class RandomStream {
 public:
  /// For callers that round nothing: the stream of key 0.
  constexpr RandomStream() : key_{}, step_(0) {}
  RandomStream(uint64_t seed, RandomPurpose purpose, std::string_view name = {}, uint64_t step = 0);

  /// What `words` is a function of, for code that draws many at a time: philox4x32 with counter {i, step} and this key.
  constexpr std::array<uint32_t, 2> key() const { return key_; }
  constexpr uint64_t step() const { return step_; }
  /// The stream of the same seed, purpose and name at another step.
  constexpr RandomStream at(uint64_t step) const {
    RandomStream stream = *this;
    stream.step_ = step;
    return stream;
  }
  /// Four independent 32-bit words for counter i.
  constexpr std::array<uint32_t, 4> words(uint64_t i) const {
    return philox4x32(
        {static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), static_cast<uint32_t>(step_), static_cast<uint32_t>(step_ >> 32)}, key_);
  }
  /// 16 random bits, eight times as many as counters: half word h is the (h mod 8)th of words(h / 8), low halves first.
  constexpr uint16_t half_word(uint64_t h) const { return static_cast<uint16_t>(words(h / 8)[h % 8 / 2] >> (h % 2 * 16)); }
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
