#include "engine/run_lock.h"

#include <gtest/gtest.h>

#include <fstream>
#include <optional>

#include "base/error.h"

namespace tessera {

namespace {

class RunLockTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        std::filesystem::path(testing::TempDir()) / "tessera_run_lock" / testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path directory_;
};

}  // namespace

TEST_F(RunLockTest, HoldsADirectoryForOneAtATimeAndNamesIt) {
  const auto run_dir = directory_ / "a" / "run";
  std::optional<RunLock> first(run_dir);
  for (int attempt = 0; attempt < 2; attempt++) {
    try {
      RunLock second(run_dir);
      FAIL() << "two locks at once";
    } catch (const ConfigError& error) {
      EXPECT_NE(error.text().what.find(run_dir.string()), std::string::npos);
    }
  }
  const RunLock other(directory_ / "b");
  first.reset();
  const RunLock again(run_dir);
}

TEST_F(RunLockTest, LeavesNothingBehindButARun) {
  const auto run_dir = directory_ / "run";
  { const RunLock lock(run_dir); }
  EXPECT_FALSE(std::filesystem::exists(run_dir));
  {
    const RunLock lock(run_dir);
    std::ofstream(run_dir / "config.toml") << "x";
  }
  EXPECT_TRUE(std::filesystem::exists(run_dir / "config.toml"));
  EXPECT_FALSE(std::filesystem::exists(run_dir / RunLock::file_name));
  const auto empty = directory_ / "empty";
  std::filesystem::create_directories(empty);
  { const RunLock lock(empty); }
  EXPECT_TRUE(std::filesystem::exists(empty)) << "made by somebody else";
}

TEST_F(RunLockTest, APlaceWhereNoDirectoryCanBeIsNamed) {
  std::ofstream(directory_ / "file") << "x";
  EXPECT_THROW(RunLock(directory_ / "file" / "run"), DataError);
}

}  // namespace tessera
