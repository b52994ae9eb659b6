#include "base/system_memory.h"

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace tessera {

namespace {

using std::filesystem::path;

/// The number behind the word `key`.
std::optional<int64_t> number_behind(const path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    int64_t number = 0;
    if (word == key && in >> number) return number;
  }
  return std::nullopt;
}

std::optional<int64_t> kilobytes_behind(const path& file, const std::string& key) {
  const std::optional<int64_t> kilobytes = number_behind(file, key);
  return kilobytes ? std::optional(*kilobytes * 1024) : std::nullopt;
}

std::optional<int64_t> number_in(const path& file) {
  int64_t number = 0;
  return std::ifstream(file) >> number ? std::optional(number) : std::nullopt;  // "max" is no number
}

/// A control group that bounds this process.
struct Group {
  int64_t limit_bytes, used_bytes, cache_bytes;
};

/// How a version of control groups names its files.
struct GroupFiles {
  const char *limit, *used, *prefix;  // `prefix` of keys in memory.stat that count the groups below as well
};
constexpr GroupFiles version1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_"};
constexpr GroupFiles version2 = {"memory.max", "memory.current", ""};

/// The group at `place` below `mount` and all above it. In a container the mount often shows the process's own group alone, while its
/// place is told as the machine sees it: folders that are not there are passed over.
void add_groups(std::vector<Group>& groups, const path& mount, path place, const GroupFiles& files) {
  for (place = place.relative_path();; place = place.parent_path()) {
    const path folder = mount / place;
    const std::optional<int64_t> limit = number_in(folder / files.limit), used = number_in(folder / files.used);
    if (limit && used) {
      const auto cache = [&](const char* list) {
        return number_behind(folder / "memory.stat", std::string(files.prefix) + list).value_or(0);
      };
      groups.push_back({*limit, *used, cache("inactive_file") + cache("active_file")});
    }
    if (place.empty()) return;
  }
}

std::vector<Group> groups_of_this_process(const path& root) {
  std::vector<Group> groups;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:cpu,memory:/place", or "0::/place" in version 2
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",", place = line.substr(second + 1);
    if (controllers == ",,") add_groups(groups, root / "sys/fs/cgroup", place, version2);
    if (controllers.find(",memory,") != std::string::npos) add_groups(groups, root / "sys/fs/cgroup/memory", place, version1);
  }
  return groups;
}

/// The lesser of what is known.
void bound(std::optional<int64_t>& bytes, int64_t limit) { bytes = std::min(bytes.value_or(limit), limit); }

}  // namespace

std::optional<int64_t> available_memory_bytes(const path& root) {
  std::optional<int64_t> bytes = kilobytes_behind(root / "proc/meminfo", "MemAvailable:");
  for (const Group& group : groups_of_this_process(root)) bound(bytes, group.limit_bytes - group.used_bytes + group.cache_bytes);
  rlimit addresses{};
  if (getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur <= std::numeric_limits<int64_t>::max()) {
    bound(bytes, static_cast<int64_t>(addresses.rlim_cur) - kilobytes_behind(root / "proc/self/status", "VmSize:").value_or(0));
  }
  return bytes ? std::optional(std::max<int64_t>(*bytes, 0)) : std::nullopt;
}

std::optional<int64_t> memory_capacity_bytes(const path& root) {
  std::optional<int64_t> bytes = kilobytes_behind(root / "proc/meminfo", "MemTotal:");
  for (const Group& group : groups_of_this_process(root)) bound(bytes, group.limit_bytes);
  return bytes;
}

int64_t resident_memory_bytes() {
  const path status = "/proc/self/status";
  return kilobytes_behind(status, "RssAnon:").value_or(0) + kilobytes_behind(status, "RssShmem:").value_or(0);
}

int64_t heap_bytes() {
  // Where another allocator stands in for glibc's (a sanitizer's, tcmalloc), the first call sets glibc's up, and does not lock while it
  // does: two ranks that come first together end in its assertion "attached_threads > 0". A static's initializer runs once.
  [[maybe_unused]] static const struct mallinfo2 set_up = mallinfo2();
  const struct mallinfo2 heap = mallinfo2();
  return static_cast<int64_t>(heap.arena + heap.hblkhd);
}

}  // namespace tessera
