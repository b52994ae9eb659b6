#include "base/system_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

/// There in a program under a sanitizer, whose allocator is not the one that is asked here.
extern "C" __attribute__((weak)) size_t __sanitizer_get_current_allocated_bytes();

namespace tessera {

namespace {

constexpr int64_t mib = 1 << 20;

/// A machine of 1000 MiB, 800 of them available, as files under a folder.
class SystemMemory : public testing::Test {
 protected:
  void SetUp() override {
    root_ =
        std::filesystem::path(testing::TempDir()) / "tessera_system_memory" / testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
    write("proc/meminfo", "MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: 819200 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void write_group(const std::string& folder, const std::string& limit, int64_t used, int64_t inactive_file, int64_t active_file) const {
    write(folder + "/memory.max", limit);
    write(folder + "/memory.current", std::to_string(used));
    write(folder + "/memory.stat",
          "anon 5\ninactive_file " + std::to_string(inactive_file) + "\nactive_file " + std::to_string(active_file));
  }

  std::filesystem::path root_;
};

}  // namespace

TEST_F(SystemMemory, WithoutLimitsIsTheMachines) {
  EXPECT_EQ(available_memory_bytes(root_), 800 * mib);
  EXPECT_EQ(memory_capacity_bytes(root_), 1000 * mib);
}

TEST_F(SystemMemory, AControlGroupsPageCacheIsFree) {
  write("proc/self/cgroup", "0::/\n");
  write_group("sys/fs/cgroup", std::to_string(500 * mib), 490 * mib, 300 * mib, 50 * mib);
  EXPECT_EQ(available_memory_bytes(root_), 360 * mib);
  EXPECT_EQ(memory_capacity_bytes(root_), 500 * mib);
}

TEST_F(SystemMemory, EveryGroupAboveTheProcessBoundsIt) {
  write("proc/self/cgroup", "0::/slice/session\n");
  write_group("sys/fs/cgroup/slice/session", "max", 90 * mib, 0, 0);
  write_group("sys/fs/cgroup/slice", std::to_string(200 * mib), 150 * mib, 0, 0);
  write_group("sys/fs/cgroup", std::to_string(600 * mib), 100 * mib, 0, 0);
  EXPECT_EQ(available_memory_bytes(root_), 50 * mib);
  EXPECT_EQ(memory_capacity_bytes(root_), 200 * mib);
}

TEST_F(SystemMemory, TheFirstVersionOfControlGroupsCountsItsSubgroups) {
  write("proc/self/cgroup", "9:name=systemd:/\n4:cpuset,memory:/job\n0::/\n");
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", std::to_string(300 * mib));
  write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", std::to_string(280 * mib));
  write("sys/fs/cgroup/memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file " + std::to_string(40 * mib) + "\n");
  EXPECT_EQ(available_memory_bytes(root_), 60 * mib);
  EXPECT_EQ(memory_capacity_bytes(root_), 300 * mib);
}

TEST_F(SystemMemory, AContainerThatShowsOnlyItsOwnGroupIsStillBound) {
  write("proc/self/cgroup", "0::/machine/container-7\n");  // folders that this container cannot see
  write_group("sys/fs/cgroup", std::to_string(100 * mib), 30 * mib, 0, 0);
  EXPECT_EQ(available_memory_bytes(root_), 70 * mib);
}

TEST_F(SystemMemory, AFullGroupLeavesNothingWhichIsNotUnknown) {
  write("proc/self/cgroup", "0::/\n");
  write_group("sys/fs/cgroup", std::to_string(100 * mib), 101 * mib, 0, 0);
  EXPECT_EQ(available_memory_bytes(root_), 0);
}

TEST_F(SystemMemory, ASilentSystemIsUnknown) { EXPECT_EQ(memory_capacity_bytes(root_ / "nothing"), std::nullopt); }

TEST(HeapBytes, GrowByWhatIsAllocated) {
  if (__sanitizer_get_current_allocated_bytes) GTEST_SKIP() << "a sanitizer brings an allocator of its own";
  const int64_t before = heap_bytes();
  const std::vector<char> block(64 * mib);
  EXPECT_GE(heap_bytes() - before, 64 * mib);
  EXPECT_GE(block.size(), 1u);
}

// Says something where the test runs alone in its process, as ctest runs it, and under a sanitizer.
TEST(HeapBytesRanks, TwoThreadsMayAskFirst) {
  std::atomic<int> ready = 0;
  const auto ask = [&] {
    for (++ready; ready < 2;) std::this_thread::yield();
    EXPECT_GE(heap_bytes(), 0);
  };
  std::thread first(ask), second(ask);
  first.join();
  second.join();
}

}  // namespace tessera
