#include "tokenizer/token_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "base/error.h"

namespace tessera {
namespace {

std::vector<int32_t> sorted(const std::vector<int32_t>& tokens) {
  std::vector<int32_t> order(tokens.size(), -1), workspace(tokens.size());
  sort_by_token(tokens, order, workspace);
  return order;
}

TEST(TokenIndex, IsTheStableOrderByToken) {
  std::mt19937 random(7);
  // One, two and three passes, their borders, and many equal tokens.
  for (int32_t bound : {1, 2, 50, 2047, 2048, 2049, 50304, 1 << 22, (1 << 22) + 1, std::numeric_limits<int32_t>::max()}) {
    for (size_t N : {1, 2, 63, 1000, 5000}) {
      std::vector<int32_t> tokens(N), expected(N);
      for (int32_t& token : tokens) token = static_cast<int32_t>(random() % bound);
      tokens.back() = bound - 1;
      std::iota(expected.begin(), expected.end(), 0);
      std::stable_sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
      EXPECT_EQ(sorted(tokens), expected) << bound << " " << N;
    }
  }
}

TEST(TokenIndex, EqualTokensKeepTheirOrder) { EXPECT_EQ(sorted({5, 3, 5, 3, 5}), (std::vector<int32_t>{1, 3, 0, 2, 4})); }

TEST(TokenIndex, OfNothingIsNothing) { EXPECT_EQ(sorted({}), std::vector<int32_t>()); }

TEST(TokenIndex, WrongSizesAndNegativeTokensAreErrors) {
  const std::vector<int32_t> tokens = {1, 2, 3}, negative = {1, -1, 3};
  std::vector<int32_t> three(3), two(2), workspace(3);
  EXPECT_THROW(sort_by_token(tokens, two, workspace), InternalError);
  EXPECT_THROW(sort_by_token(tokens, three, two), InternalError);
  EXPECT_THROW(sort_by_token(negative, three, workspace), InternalError);
}

}  // namespace
}  // namespace tessera
