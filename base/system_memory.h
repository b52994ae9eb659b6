#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>

/// What the system says of memory. `root` is where /proc and /sys lie; tests give a folder of their own.
namespace tessera {

/// Bytes that this process may still take, 0 when nothing is left: MemAvailable, bounded by each of its control groups (versions 1 and 2,
/// the process's own group and all above it) and by its limit of addresses. A group's page cache counts as free, as in MemAvailable: the
/// system drops it before it refuses memory. No value when the system says nothing.
std::optional<int64_t> available_memory_bytes(const std::filesystem::path& root = "/");

/// Bytes that this process could have if it were alone: the machine's memory, or the lowest limit of its control groups.
std::optional<int64_t> memory_capacity_bytes(const std::filesystem::path& root = "/");

/// Bytes of this process that are its own, not pages of files: RssAnon + RssShmem of /proc/self/status; 0 when the system does not say.
int64_t resident_memory_bytes();

/// Bytes that malloc has taken from the system: in use, kept for later, or never touched. The device's arena is not among them, nor what
/// a sanitizer's allocator takes.
int64_t heap_bytes();

}  // namespace tessera
