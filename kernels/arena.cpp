#include "kernels/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace tessera {

/// a + b; no machine holds what overflows.
static int64_t added(int64_t a, int64_t b) {
  if (__builtin_add_overflow(a, b, &a)) {
    throw OutOfMemoryError(
        {"more than 8 EiB of memory are needed", "sizing the arena", {}, "lower train.micro_batch_size or the model's size"});
  }
  return a;
}

int64_t ArenaSize::total_bytes() const {
  int64_t sum = scratch_bytes;
  for (int64_t bytes : permanent_bytes) sum = added(sum, bytes);
  return sum;
}

void Arena::count(MemorySpace space, MemoryCategory category, int64_t bytes) {
  const auto s = static_cast<size_t>(space), c = static_cast<size_t>(category);
  use_.current_bytes[s][c] += bytes;
  use_.total_current_bytes[s] += bytes;
  use_.peak_bytes[s][c] = std::max(use_.peak_bytes[s][c], use_.current_bytes[s][c]);
  if (use_.total_current_bytes[s] > use_.total_peak_bytes[s]) {
    use_.total_peak_bytes[s] = use_.total_current_bytes[s];
    use_.alive_at_total_peak_bytes[s] = use_.current_bytes[s];
  }
}

Tensor Arena::permanent(DType dtype, Shape shape, MemoryCategory category, MemorySpace space) {
  const int64_t bytes = arena_rounded(bytes_of(shape, dtype));
  int64_t& top = taken_.permanent_bytes[static_cast<size_t>(space)];
  void* address = permanent_address(space, top, bytes);
  top = added(top, bytes);
  count(space, category, bytes);
  return Tensor(address, dtype, shape);
}

ArenaSize Arena::size() const { return taken_; }

Tensor ScratchScope::take(DType dtype, Shape shape, MemoryCategory category) {
  invariant(count_ < static_cast<int>(blocks_.size()), "a scratch scope holds at most 24 blocks");
  const int64_t bytes = arena_rounded(bytes_of(shape, dtype));
  void* address = arena_.scratch_address(arena_.scratch_top_, bytes);
  arena_.scratch_top_ = added(arena_.scratch_top_, bytes);
  arena_.taken_.scratch_bytes = std::max(arena_.taken_.scratch_bytes, arena_.scratch_top_);
  arena_.count(MemorySpace::Device, category, bytes);
  blocks_[count_++] = {category, bytes};
  return Tensor(address, dtype, shape);
}

ScratchScope::~ScratchScope() {
  for (int i = 0; i < count_; i++) arena_.count(MemorySpace::Device, blocks_[i].category, -blocks_[i].bytes);
  arena_.scratch_top_ = start_;
}

SlotPool::SlotPool(Arena& arena, int count, int64_t bytes_each, MemoryCategory category)
    : count_(count), bytes_each_(arena_rounded(bytes_each)), memory_(arena.permanent(DType::u8, {count, bytes_each_}, category)) {}

Tensor SlotPool::tensor(int slot, int64_t offset_bytes, DType dtype, Shape shape) const {
  invariant(slot >= 0 && slot < count_, "no such activation slot");
  invariant(offset_bytes >= 0 && offset_bytes + shape.elements() * bytes_of(dtype) <= bytes_each_, "a saved tensor lies outside its slot");
  return Tensor(static_cast<char*>(memory_.data) + slot * bytes_each_ + offset_bytes, dtype, shape);
}

Ring::Ring(Arena& arena, int count, DType dtype, Shape shape, MemoryCategory category, MemorySpace space) : free_(count) {
  for (int i = 0; i < count; i++) entries_.push_back(arena.permanent(dtype, shape, category, space));
}

size_t Ring::index(int64_t use) const {
  invariant(!entries_.empty(), "a ring without entries is used");
  return static_cast<size_t>(use) % entries_.size();
}

namespace {

/// Addresses far above anything the system maps: a read or write faults at once.
class CountingArena : public Arena {
 protected:
  void* permanent_address(MemorySpace space, int64_t offset, int64_t) override { return address(1 + static_cast<int64_t>(space), offset); }
  void* scratch_address(int64_t offset, int64_t) override { return address(1 + memory_spaces, offset); }

 private:
  static void* address(int64_t region, int64_t offset) {
    return reinterpret_cast<void*>((uint64_t{1} << 62) + (static_cast<uint64_t>(region) << 56) + static_cast<uint64_t>(offset));
  }
};

class SystemMemory : public MemorySource {
 public:
  void* take(MemorySpace, int64_t bytes) override {
    void* address = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) {
      throw OutOfMemoryError({fmt::format("the system refused {} bytes of memory", bytes),
                              "reserving the arena",
                              {},
                              "lower train.micro_batch_size or the model's size"});
    }
    madvise(address, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // advice only: fewer misses where the system has huge pages
    return address;
  }
  void give_back(MemorySpace, void* memory, int64_t bytes) noexcept override { munmap(memory, static_cast<size_t>(bytes)); }
};

/// Memory of one space, given back at the end.
class Reservation {
 public:
  Reservation() = default;
  Reservation(MemorySource& source, MemorySpace space, int64_t bytes) : source_(&source), space_(space), bytes_(bytes) {
    if (bytes > 0) base_ = static_cast<char*>(source.take(space, bytes));
  }
  Reservation(Reservation&& other) noexcept { swap(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Reservation() {
    if (base_) source_->give_back(space_, base_, bytes_);
  }

  void* at(int64_t offset, int64_t bytes) const {
    if (offset + bytes > bytes_) {
      throw InternalError(fmt::format("the arena holds {} bytes, as the dry run said, but {} are asked for", bytes_, offset + bytes));
    }
    return base_ + offset;
  }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(Reservation& other) noexcept {
    std::swap(source_, other.source_);
    std::swap(space_, other.space_);
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
  }
  MemorySource* source_ = nullptr;
  MemorySpace space_ = MemorySpace::Device;
  char* base_ = nullptr;
  int64_t bytes_ = 0;
};

/// One reservation for each space and one for scratch.
class ReservingArena : public Arena {
 public:
  ReservingArena(const ArenaSize& size, MemorySource& source) : scratch_(source, MemorySpace::Device, size.scratch_bytes) {
    for (int s = 0; s < memory_spaces; s++) permanent_[s] = Reservation(source, static_cast<MemorySpace>(s), size.permanent_bytes[s]);
  }

  std::span<std::byte> untaken() override {
    constexpr auto device = static_cast<size_t>(MemorySpace::Device);
    const int64_t taken = this->size().permanent_bytes[device], left = permanent_[device].bytes() - taken;
    return {static_cast<std::byte*>(permanent_[device].at(taken, left)), static_cast<size_t>(left)};
  }

 protected:
  void* permanent_address(MemorySpace space, int64_t offset, int64_t bytes) override {
    const auto s = static_cast<size_t>(space);
    return permanent_[s].at(offset, bytes);
  }
  void* scratch_address(int64_t offset, int64_t bytes) override { return scratch_.at(offset, bytes); }

 private:
  std::array<Reservation, memory_spaces> permanent_;
  Reservation scratch_;
};

}  // namespace

std::unique_ptr<Arena> Arena::counting() { return std::make_unique<CountingArena>(); }

std::unique_ptr<Arena> Arena::reserving(const ArenaSize& size, MemorySource& source) {
  return std::make_unique<ReservingArena>(size, source);
}

MemorySource& system_memory() {
  static SystemMemory memory;  // without state
  return memory;
}

}  // namespace tessera
