#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/memory_kind.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// Blocks start at multiples of this and are counted rounded up to it: what is counted is what is taken.
constexpr int64_t arena_alignment_bytes = 64;
constexpr int64_t arena_rounded(int64_t bytes) {
  return (bytes + arena_alignment_bytes - 1) / arena_alignment_bytes * arena_alignment_bytes;
}

/// What to reserve: capacity is a sum of the permanent part (slots and rings included) and the deepest scratch stack.
struct ArenaSize {
  std::array<int64_t, memory_spaces> permanent_bytes{};
  int64_t scratch_bytes = 0;  // device space only
  int64_t total_bytes() const;
  bool operator==(const ArenaSize&) const = default;
};

/// Current and peak bytes by space and category, the total peak of the device space, and what was alive then.
struct ArenaUse {
  using ByCategory = std::array<int64_t, memory_categories>;
  std::array<ByCategory, memory_spaces> current_bytes{}, peak_bytes{};
  std::array<int64_t, memory_spaces> total_current_bytes{}, total_peak_bytes{};
  std::array<ByCategory, memory_spaces> alive_at_total_peak_bytes{};
};

/// Where a reserving arena takes its memory from.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  /// Zero-filled, at a multiple of arena_alignment_bytes. Throws OutOfMemoryError when it is refused.
  virtual void* take(MemorySpace space, int64_t bytes) = 0;
  virtual void give_back(MemorySpace space, void* memory, int64_t bytes) noexcept = 0;
};
/// Anonymous pages for every space, huge ones where the system gives them.
MemorySource& system_memory();

/// The only allocator. Four lifetimes: permanent (here), slots and rings (permanent blocks with an index: SlotPool, Ring),
/// scratch (a stack: ScratchScope). There is no general free, so nothing fragments.
/// A counting arena hands out addresses that must never be read; a reserving one takes its size from a counting one, to the byte.
class Arena {
 public:
  /// Counts only: capacity without end.
  static std::unique_ptr<Arena> counting();
  /// Takes exactly `size` from `source`, which must outlive it. Throws OutOfMemoryError when that refuses.
  static std::unique_ptr<Arena> reserving(const ArenaSize& size, MemorySource& source = system_memory());
  virtual ~Arena() = default;
  Arena(const Arena&) = delete;

  /// A block that lives as long as the arena, zero-filled where it is real.  Throws InternalError beyond the reserved size.
  Tensor permanent(DType dtype, Shape shape, MemoryCategory category, MemorySpace space = MemorySpace::Device);
  /// Device memory that no permanent block has taken yet, to measure on before a trainer takes it. Whoever writes there leaves zeros.
  /// Empty in a counting arena.
  virtual std::span<std::byte> untaken() { return {}; }
  /// What was taken so far; scratch counts with its deepest stack. A counting arena's size reserves a real one.
  ArenaSize size() const;
  const ArenaUse& use() const { return use_; }

 protected:
  Arena() = default;
  virtual void* permanent_address(MemorySpace space, int64_t offset, int64_t bytes) = 0;
  virtual void* scratch_address(int64_t offset, int64_t bytes) = 0;

 private:
  friend class ScratchScope;
  void count(MemorySpace space, MemoryCategory category, int64_t bytes);  // negative when given back
  ArenaSize taken_;
  int64_t scratch_top_ = 0;
  ArenaUse use_;
};

/// Scratch of one op sequence: last in, first out, never leaves its stream. What was taken is given back at the end of the scope.
class ScratchScope {
 public:
  explicit ScratchScope(Arena& arena) : arena_(arena), start_(arena.scratch_top_) {}
  ~ScratchScope();
  ScratchScope(const ScratchScope&) = delete;
  Tensor take(DType dtype, Shape shape, MemoryCategory category = MemoryCategory::Scratch);

 private:
  struct Block {
    MemoryCategory category;
    int64_t bytes;
  };
  Arena& arena_;
  int64_t start_;
  std::array<Block, 24> blocks_;
  int count_ = 0;
};

/// `count` equal areas, indexed by the schedule: saved activations of one chunk, one slot for each micro-batch in flight.
class SlotPool {
 public:
  SlotPool() = default;
  SlotPool(Arena& arena, int count, int64_t bytes_each, MemoryCategory category);
  int count() const { return count_; }
  int64_t bytes_each() const { return bytes_each_; }
  /// A tensor at `offset` bytes inside a slot. InternalError when it does not fit.
  Tensor tensor(int slot, int64_t offset_bytes, DType dtype, Shape shape) const;

 private:
  int count_ = 0;
  int64_t bytes_each_ = 0;
  Tensor memory_;
};

/// N buffers for what crosses streams; entry i % N belongs to use i. `free` is reached when the last reader of an entry is done.
class Ring {
 public:
  Ring() = default;
  Ring(Arena& arena, int count, DType dtype, Shape shape, MemoryCategory category, MemorySpace space = MemorySpace::Device);
  int count() const { return static_cast<int>(entries_.size()); }
  /// InternalError when the ring is empty.
  Tensor operator[](int64_t use) const { return entries_[index(use)]; }
  Event& free(int64_t use) { return free_[index(use)]; }

 private:
  size_t index(int64_t use) const;
  std::vector<Tensor> entries_;
  std::vector<Event> free_;
};

}  // namespace tessera
