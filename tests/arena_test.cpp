#include "kernels/arena.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tessera {
namespace {

constexpr auto device = static_cast<size_t>(MemorySpace::Device), host = static_cast<size_t>(MemorySpace::Host);
constexpr size_t of(MemoryCategory category) { return static_cast<size_t>(category); }

/// A little of everything: what a trainer does with an arena, in small.
void take_everything(Arena& arena) {
  arena.permanent(DType::f32, {3, 5}, MemoryCategory::Weights);
  arena.permanent(DType::u8, {1}, MemoryCategory::Data, MemorySpace::Host);
  SlotPool slots(arena, 3, 1000, MemoryCategory::Activations);
  Ring ring(arena, 2, DType::f32, {33}, MemoryCategory::CommBuffers);
  ScratchScope outer(arena);
  outer.take(DType::f32, {100});
  {
    ScratchScope inner(arena);
    inner.take(DType::f32, {50}, MemoryCategory::Logits);
  }
  outer.take(DType::f32, {10});
}

TEST(Arena, AReservingOneOfTheCountedSizeHoldsTheSameCallsToTheByte) {
  const auto counting = Arena::counting();
  take_everything(*counting);
  const auto reserving = Arena::reserving(counting->size());
  take_everything(*reserving);
  EXPECT_EQ(reserving->size(), counting->size());
  EXPECT_EQ(reserving->use().peak_bytes, counting->use().peak_bytes);
  EXPECT_EQ(reserving->use().total_peak_bytes, counting->use().total_peak_bytes);
  EXPECT_EQ(reserving->use().alive_at_total_peak_bytes, counting->use().alive_at_total_peak_bytes);
  EXPECT_EQ(reserving->size().total_bytes(), 64 + 64 + 3 * 1024 + 2 * 192 + (448 + 256));
}

TEST(Arena, BeyondTheReservedSizeIsAnInternalError) {
  const auto counting = Arena::counting();
  take_everything(*counting);
  const auto reserving = Arena::reserving(counting->size());
  take_everything(*reserving);
  EXPECT_THROW(reserving->permanent(DType::u8, {1}, MemoryCategory::Weights), InternalError);
  EXPECT_THROW(reserving->permanent(DType::u8, {1}, MemoryCategory::Weights, MemorySpace::Host), InternalError);
  ScratchScope scope(*reserving);
  EXPECT_NO_THROW(scope.take(DType::u8, {448 + 256}));
  EXPECT_THROW(scope.take(DType::u8, {1}), InternalError);
}

TEST(Arena, PermanentMemoryIsZeroAlignedAndApart) {
  ArenaSize size;
  size.permanent_bytes[device] = 1 << 20;
  const auto arena = Arena::reserving(size);
  const Tensor a = arena->permanent(DType::f32, {5}, MemoryCategory::Weights),
               b = arena->permanent(DType::f32, {5}, MemoryCategory::Weights);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data) % arena_alignment_bytes, 0u);
  EXPECT_EQ(static_cast<char*>(b.data) - static_cast<char*>(a.data), arena_alignment_bytes);
  for (int i = 0; i < 5; i++) EXPECT_EQ(a.as<float>()[i], 0);
}

TEST(Arena, CategoriesAndSpacesAreCountedApart) {
  const auto arena = Arena::counting();
  take_everything(*arena);
  const ArenaUse& use = arena->use();
  EXPECT_EQ(use.current_bytes[device][of(MemoryCategory::Weights)], 64);
  EXPECT_EQ(use.current_bytes[device][of(MemoryCategory::Activations)], 3 * 1024);
  EXPECT_EQ(use.current_bytes[device][of(MemoryCategory::CommBuffers)], 2 * 192);
  EXPECT_EQ(use.current_bytes[host][of(MemoryCategory::Data)], 64);
  EXPECT_EQ(use.current_bytes[device][of(MemoryCategory::Data)], 0);
}

TEST(Arena, PeaksRememberWhatWasAliveTogether) {
  const auto arena = Arena::counting();
  take_everything(*arena);
  const ArenaUse& use = arena->use();
  const int64_t permanent = 64 + 3 * 1024 + 2 * 192;
  EXPECT_EQ(use.total_current_bytes[device], permanent) << "scratch was given back";
  EXPECT_EQ(use.total_peak_bytes[device], permanent + 448 + 256);
  EXPECT_EQ(use.alive_at_total_peak_bytes[device][of(MemoryCategory::Scratch)], 448);
  EXPECT_EQ(use.alive_at_total_peak_bytes[device][of(MemoryCategory::Logits)], 256);
  EXPECT_EQ(use.peak_bytes[device][of(MemoryCategory::Scratch)], 448 + 64) << "a category peaks at its own time";
  EXPECT_EQ(use.current_bytes[device][of(MemoryCategory::Scratch)], 0);
}

TEST(Arena, ScratchIsLastInFirstOut) {
  ArenaSize size;
  size.scratch_bytes = 1024;
  const auto arena = Arena::reserving(size);
  ScratchScope outer(*arena);
  const Tensor kept = outer.take(DType::f32, {16});
  void* reused = nullptr;
  {
    ScratchScope inner(*arena);
    reused = inner.take(DType::f32, {16}).data;
    EXPECT_NE(reused, kept.data);
  }
  EXPECT_EQ(outer.take(DType::f32, {32}).data, reused);
  EXPECT_EQ(arena->size().scratch_bytes, 64 + 128);
}

TEST(Arena, AScopeHoldsAtMostTwentyFourBlocks) {
  const auto arena = Arena::counting();
  ScratchScope scope(*arena);
  for (int i = 0; i < 24; i++) scope.take(DType::u8, {1});
  EXPECT_THROW(scope.take(DType::u8, {1}), InternalError);
}

TEST(Arena, MoreThanTheSystemHasIsOutOfMemory) {
  ArenaSize size;
  size.permanent_bytes[device] = int64_t{1} << 60;
  EXPECT_THROW(Arena::reserving(size), OutOfMemoryError);
}

TEST(Arena, CountingNeedsNoMemoryOfThatSize) {
  const auto arena = Arena::counting();
  const Tensor huge = arena->permanent(DType::f32, {int64_t{1} << 40}, MemoryCategory::Weights);
  EXPECT_FALSE(huge.empty());
  EXPECT_EQ(arena->size().total_bytes(), int64_t{4} << 40);
}

TEST(Arena, SizesBeyond64BitsAreErrors) {
  const auto arena = Arena::counting();
  const Shape exbibytes{int64_t{1} << 62};
  EXPECT_THROW(arena->permanent(DType::f32, exbibytes, MemoryCategory::Weights), InternalError);
  arena->permanent(DType::u8, exbibytes, MemoryCategory::Weights);
  EXPECT_THROW(arena->permanent(DType::u8, exbibytes, MemoryCategory::Weights), OutOfMemoryError);
}

TEST(SlotPool, SlotsAreApartAndBounded) {
  ArenaSize size;
  size.permanent_bytes[device] = 3 * 128;
  const auto arena = Arena::reserving(size);
  const SlotPool slots(*arena, 3, 100, MemoryCategory::Activations);
  EXPECT_EQ(slots.bytes_each(), 128);
  const Tensor first = slots.tensor(0, 0, DType::f32, {4, 4}), second = slots.tensor(1, 64, DType::f32, {4, 4});
  EXPECT_EQ(static_cast<char*>(second.data) - static_cast<char*>(first.data), 128 + 64);
  EXPECT_THROW(slots.tensor(3, 0, DType::f32, {1}), InternalError);
  EXPECT_THROW(slots.tensor(0, 68, DType::f32, {4, 4}), InternalError);
}

TEST(Ring, AnEmptyOneIsNeverUsed) {
  Ring ring;
  EXPECT_THROW(ring[0], InternalError);
  EXPECT_THROW(ring.free(0), InternalError);
}

TEST(Ring, UsesTakeTheEntriesInTurn) {
  const auto arena = Arena::counting();
  Ring ring(*arena, 2, DType::f32, {8}, MemoryCategory::CommBuffers);
  EXPECT_EQ(ring[0].data, ring[2].data);
  EXPECT_NE(ring[0].data, ring[1].data);
  ring.free(3) = {nullptr, 42};
  EXPECT_EQ(ring.free(1).ticket, 42u);
  EXPECT_EQ(ring.free(0).ticket, 0u);
}

/// Remembers what was asked of it.
class Bookkeeper : public MemorySource {
 public:
  void* take(MemorySpace space, int64_t bytes) override {
    taken.emplace_back(space, bytes);
    return system_memory().take(space, bytes);
  }
  void give_back(MemorySpace space, void* memory, int64_t bytes) noexcept override {
    given_back += bytes;
    system_memory().give_back(space, memory, bytes);
  }
  std::vector<std::pair<MemorySpace, int64_t>> taken;
  int64_t given_back = 0;
};

TEST(ReservingArena, TakesEachSpaceOnceFromItsSourceToTheByteAndGivesAllBack) {
  Bookkeeper source;
  ArenaSize size;
  size.permanent_bytes = {256, 64, 0};
  size.scratch_bytes = 128;
  { const auto arena = Arena::reserving(size, source); }
  const std::vector<std::pair<MemorySpace, int64_t>> expected = {
      {MemorySpace::Device, 128}, {MemorySpace::Device, 256}, {MemorySpace::PinnedHost, 64}};
  EXPECT_EQ(source.taken, expected);
  EXPECT_EQ(source.given_back, 448);
}

}  // namespace
}  // namespace tessera
