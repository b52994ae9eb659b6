#include "base/units.h"

#include <gtest/gtest.h>

#include <limits>

namespace tessera {

TEST(FormatBytes, UsesPowersOf1024WithOneDecimal) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1503238553), "1.4 GiB");
  EXPECT_EQ(format_bytes(int64_t{700} << 30), "700.0 GiB");
  EXPECT_EQ(format_bytes(-1536), "-1.5 KiB");
}

TEST(FormatBytes, NeverRoundsUpTo1024OfAUnit) {
  EXPECT_EQ(format_bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<int64_t>::max()), "8.0 EiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<int64_t>::min()), "-8.0 EiB");
}

TEST(FormatSeconds, ChoosesTheUnitBySize) {
  EXPECT_EQ(format_seconds(0), "0 s");
  EXPECT_EQ(format_seconds(250e-9), "250 ns");
  EXPECT_EQ(format_seconds(85e-6), "85.0 us");
  EXPECT_EQ(format_seconds(0.412), "412 ms");
  EXPECT_EQ(format_seconds(1.234), "1.23 s");
  EXPECT_EQ(format_seconds(95), "95.0 s");
  EXPECT_EQ(format_seconds(370), "6 min");
  EXPECT_EQ(format_seconds(7500), "2 h 5 min");
  EXPECT_EQ(format_seconds(3.2 * 86400), "3 d 5 h");
  EXPECT_EQ(format_seconds(-0.412), "-412 ms");
}

TEST(FormatSeconds, NeverRoundsUpToTheNextUnit) {
  EXPECT_EQ(format_seconds(0.99999), "1.00 s");
  EXPECT_EQ(format_seconds(0.00099999), "1.00 ms");
  EXPECT_EQ(format_seconds(119.9 * 60), "2 h 0 min");
  EXPECT_EQ(format_seconds(47.999 * 3600), "2 d 0 h");
}

TEST(FormatSeconds, SaysWhatIsNotANumber) { EXPECT_EQ(format_seconds(std::numeric_limits<double>::infinity()), "inf s"); }

TEST(FormatCount, HasThreeDigitsAndAPowerOf1000) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(318), "318");
  EXPECT_EQ(format_count(0.25), "0.25");
  EXPECT_EQ(format_count(318000), "318 k");
  EXPECT_EQ(format_count(124439808), "124 M");
  EXPECT_EQ(format_count(1557611200), "1.56 G");
  EXPECT_EQ(format_count(999999), "1.00 M");
  EXPECT_EQ(format_count(-2500), "-2.50 k");
}

TEST(FormatRate, PutsThePrefixBeforeTheUnit) {
  EXPECT_EQ(format_rate(318000, "tok"), "318 ktok/s");
  EXPECT_EQ(format_rate(46.2e12, "FLOP"), "46.2 TFLOP/s");
  EXPECT_EQ(format_rate(12, "step"), "12 step/s");
}

}  // namespace tessera
