#include "base/error.h"

#include <gtest/gtest.h>

namespace tessera {

TEST(Error, SaysWhatWhereLegalAndHintLineByLine) {
  const ConfigError error({"parallel.tp = 3 does not divide model.heads = 16", "small.toml, line 14", "1, 2, 4, 8, 16", "try 4"});
  EXPECT_STREQ(error.what(),
               "parallel.tp = 3 does not divide model.heads = 16\n"
               "  where: small.toml, line 14\n"
               "  legal: 1, 2, 4, 8, 16\n"
               "  hint:  try 4");
}

TEST(Error, LeavesOutEmptyParts) {
  EXPECT_STREQ(DataError({"no such file", {}, {}, {}}).what(), "no such file");
  EXPECT_STREQ(DataError({"no such file", {}, {}, "look elsewhere"}).what(), "no such file\n  hint:  look elsewhere");
}

TEST(Error, HasTheExitStatusOfItsKind) {
  EXPECT_EQ(InternalError("ours").exit_status(), 1);
  EXPECT_EQ(ConfigError({}).exit_status(), 2);
  EXPECT_EQ(DataError({}).exit_status(), 3);
  EXPECT_EQ(OutOfMemoryError({}).exit_status(), 4);
  EXPECT_EQ(CommError({}).exit_status(), 5);
}

TEST(Error, KeepsItsPartsForThoseWhoCatchItByItsBase) {
  try {
    throw CommError({"rank 3 is silent", "group dp", {}, {}});
  } catch (const Error& error) {
    EXPECT_EQ(error.text().where, "group dp");
    EXPECT_EQ(error.exit_status(), 5);
  }
}

TEST(Invariant, ThrowsInternalErrorOnlyWhenItDoesNotHold) {
  EXPECT_NO_THROW(invariant(true, "holds"));
  EXPECT_THROW(invariant(false, "does not hold"), InternalError);
}

}  // namespace tessera
