#include "kernels/cpu/bf16_kernels.h"

#include <algorithm>

#include "base/error.h"
#include "tests/op_test.h"

namespace tessera::op_test {
namespace {

/// A product with random factors in the packed layout, and room around it that must stay as it is.
struct PackedProduct {
  PackedProduct(int64_t rows, int64_t panels, int64_t depth, bool add)
      : p{.rows = rows, .panels = panels, .depth = depth, .add = add},
        left(random_values(rows * depth, "left")),
        right(random_values(depth * panels * 32, "right")),
        a(rounded(rows, 16) * (rounded(depth, 32) + 32)),
        b(panels * rounded(depth, 32) * 32),
        c(random_values(rounded(rows, 16) * (panels * 32 + 3) + 3, "sums")) {
    p.a_stride = rounded(depth, 32) + 32, p.panel_stride = rounded(depth, 32) * 32, p.c_stride = panels * 32 + 3;
    left = rounded_to(DType::bf16, left), right = rounded_to(DType::bf16, right);
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t k = 0; k < p.a_stride; k++)
        a[r * p.a_stride + k] = bf16_t(k < depth ? left[r * depth + k] : k < rounded(depth, 32) ? 0 : 1e9f);
    }
    for (int64_t k = 0; k < depth; k++) {
      for (int64_t column = 0; column < panels * 32; column++) {
        b[column / 32 * p.panel_stride + k / 2 * 64 + column % 32 * 2 + k % 2] = bf16_t(right[k * panels * 32 + column]);
      }
    }
    p.a = a.data(), p.b = b.data(), p.c = c.data();
  }
  static int64_t rounded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

  /// The largest difference from the sum in fp64 over the magnitude of its terms.
  double worst_error(const std::vector<float>& before) const {
    double worst = 0;
    const int64_t columns = p.panels * 32;
    for (int64_t r = 0; r < p.rows; r++) {
      for (int64_t column = 0; column < columns; column++) {
        const double first = p.add ? before[r * p.c_stride + column] : 0;
        double sum = first, magnitude = std::abs(first);
        for (int64_t k = 0; k < p.depth; k++) {
          const double term = double{left[r * p.depth + k]} * right[k * columns + column];
          sum += term, magnitude += std::abs(term);
        }
        worst = std::max(worst, std::abs(c[r * p.c_stride + column] - sum) / magnitude);
      }
    }
    return worst;
  }

  Bf16Product p;
  std::vector<float> left, right;
  std::vector<bf16_t> a, b;
  std::vector<float> c;
};

class Bf16Kernels : public testing::TestWithParam<Bf16Kernel> {
 protected:
  void SetUp() override {
    const auto usable = bf16_kernel_candidates();
    if (GetParam() != Bf16Kernel::EmulatedAmx && std::find(usable.begin(), usable.end(), GetParam()) == usable.end()) {
      GTEST_SKIP() << "this machine has no " << name_of(GetParam());
    }
  }
};

// Two roundings for each pair of products, in order: at most depth + 1 of 2^-24 each.
TEST_P(Bf16Kernels, ProductsOfEverySizeAreSumsInFp32) {
  const Bf16Multiplier multiply(GetParam());
  for (const int64_t rows : {1, 2, 5, 11, 12, 13, 15, 16, 17, 24, 31, 32, 33, 47, 48, 64, 70}) {
    for (const int64_t panels : {1, 2, 3}) {
      for (const int64_t depth : {2, 8, 24, 32, 40, 64, 96, 256}) {
        for (const bool add : {false, true}) {
          PackedProduct product(rows, panels, depth, add);
          const auto before = product.c;
          multiply(product.p);
          ASSERT_LE(product.worst_error(before), (depth + 1) * 0x1p-24) << rows << " x " << panels << " panels, depth " << depth;
          for (int64_t r = 0; r < PackedProduct::rounded(rows, 16); r++) {
            for (int64_t i = 32 * panels; i < product.p.c_stride; i++) {
              ASSERT_EQ(product.c[r * product.p.c_stride + i], before[r * product.p.c_stride + i]) << "between the rows of c";
            }
          }
        }
      }
    }
  }
}

// A row's sums do not depend on how many rows there are beside it.
TEST_P(Bf16Kernels, BitsOfARowDoNotDependOnTheNumberOfRows) {
  const Bf16Multiplier multiply(GetParam());
  PackedProduct whole(64, 2, 64, false), part(64, 2, 64, false);
  multiply(whole.p);
  for (const int64_t rows : {1, 7, 12, 16, 33}) {
    part.p.rows = rows;
    multiply(part.p);
    EXPECT_TRUE(std::equal(part.c.begin(), part.c.begin() + rows * part.p.c_stride - 3, whole.c.begin())) << rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Bf16Kernels, testing::Values(Bf16Kernel::Avx512Bf16, Bf16Kernel::Amx, Bf16Kernel::EmulatedAmx),
                         [](const auto& kernel) {
                           std::string name(name_of(kernel.param));
                           name.erase(std::remove_if(name.begin(), name.end(), [](char c) { return std::isalnum(c) == 0; }), name.end());
                           return name;
                         });

TEST(Bf16KernelChoice, EndsWithFp32AndNeverOffersTheEmulation) {
  const auto candidates = bf16_kernel_candidates();
  ASSERT_FALSE(candidates.empty());
  EXPECT_EQ(candidates.back(), Bf16Kernel::None);
  EXPECT_EQ(std::count(candidates.begin(), candidates.end(), Bf16Kernel::EmulatedAmx), 0);
  EXPECT_THROW(functions_of(Bf16Kernel::None), InternalError);
}

}  // namespace
}  // namespace tessera::op_test
