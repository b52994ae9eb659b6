#include "tokenizer/token_index.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace tessera {

constexpr int digit_bits = 11;
constexpr int32_t digits = 1 << digit_bits;

void sort_by_token(std::span<const int32_t> tokens, std::span<int32_t> order, std::span<int32_t> workspace) {
  const size_t N = tokens.size();
  invariant(order.size() == N && workspace.size() >= N, "the order of N tokens needs N positions and a workspace of N");
  invariant(N <= static_cast<size_t>(std::numeric_limits<int32_t>::max()), "positions are 32-bit integers");
  int32_t largest = 0;
  for (int32_t token : tokens) {
    invariant(token >= 0, "a token to be sorted is negative");
    largest = std::max(largest, token);
  }
  const auto bits = static_cast<int>(std::bit_width(static_cast<uint32_t>(largest)));
  const int passes = std::max(1, (bits + digit_bits - 1) / digit_bits);
  // The positions go back and forth; they start where the last pass ends in `order`.
  std::span<int32_t> from = passes % 2 ? workspace.first(N) : order, to = passes % 2 ? order : workspace.first(N);
  std::iota(from.begin(), from.end(), 0);
  for (int pass = 0; pass < passes; pass++) {
    const auto digit = [&](int32_t position) { return (tokens[position] >> (pass * digit_bits)) & (digits - 1); };
    std::array<int32_t, digits> next{};  // where the next position with this digit goes
    for (int32_t position : from) next[digit(position)]++;
    std::exclusive_scan(next.begin(), next.end(), next.begin(), 0);
    for (int32_t position : from) to[next[digit(position)]++] = position;
    std::swap(from, to);
  }
}

}  // namespace tessera
