#include "kernels/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"

namespace tessera {
namespace {

/// Work that finishes after a number of looks at it.
class Countdown : public Pending {
 public:
  explicit Countdown(int looks) : looks_(looks) {}
  bool advance(uint64_t) override { return --looks_ <= 0; }
  void sleep(uint64_t) override {
    sleeps++;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  int looks() const { return looks_; }
  int sleeps = 0;

 private:
  int looks_;
};

OpInfo add_of(int64_t n) { return {.kind = OpKind::Add, .shape = {{n}, DType::f32}, .flops = static_cast<double>(n)}; }

TEST(Stream, ATraceHoldsEachOpWithItsPhaseAndPlace) {
  Stream stream("compute", true);
  Trace trace;
  stream.set_trace(&trace);
  stream.set_phase(Phase::Backward);
  stream.set_place(5, 2);
  run_op(stream, add_of(7), [] {});
  stream.set_unit(1);
  run_op(stream, add_of(8), [] {});
  stream.set_trace(nullptr);
  run_op(stream, add_of(9), [] {});
  ASSERT_EQ(trace.size(), 2u);
  EXPECT_EQ(trace[0].info.shape.extents[0], 7);
  EXPECT_EQ(trace[0].info.phase, Phase::Backward);
  EXPECT_STREQ(trace[0].stream, "compute");
  EXPECT_EQ(trace[0].action, 5);
  EXPECT_EQ(trace[0].unit, 2);
  EXPECT_EQ(trace[1].unit, 1);
  EXPECT_FALSE(trace[0] == trace[1]);
}

TEST(Stream, TheProfileCountsCallsAndFlopsByKindAndPhase) {
  Stream stream("compute", true);
  stream.set_phase(Phase::Forward);
  for (int i = 0; i < 3; i++) run_op(stream, add_of(10), [] {});
  const auto add = static_cast<int>(OpKind::Add), forward = static_cast<int>(Phase::Forward), backward = static_cast<int>(Phase::Backward);
  EXPECT_EQ(stream.profile().op_calls[add][forward], 3);
  EXPECT_EQ(stream.profile().op_flops[add][forward], 30);
  EXPECT_EQ(stream.profile().op_calls[add][backward], 0);
  EXPECT_GT(stream.profile().seconds_of(Phase::Forward), 0);
  EXPECT_EQ(stream.profile().seconds_of(Phase::Backward), 0);
}

TEST(Stream, AnUntimedStreamCountsButTakesNoTime) {
  Stream stream("compute", false);
  run_op(stream, add_of(10), [] {});
  EXPECT_EQ(stream.profile().op_calls[static_cast<int>(OpKind::Add)][static_cast<int>(Phase::Setup)], 1);
  EXPECT_EQ(stream.profile().seconds_of(Phase::Setup), 0);
}

TEST(Stream, WaitAdvancesPendingWorkUntilItIsDoneAndSleepsBetween) {
  Stream stream("compute", true);
  Countdown work(4);
  stream.wait({&work, 1}, WaitReason::Dp);
  EXPECT_EQ(work.looks(), 0);
  EXPECT_EQ(work.sleeps, 3);
  EXPECT_GT(stream.profile().wait_seconds[static_cast<int>(WaitReason::Dp)], 0);
  EXPECT_EQ(stream.profile().wait_seconds[static_cast<int>(WaitReason::Tp)], 0);
}

TEST(Stream, SleepingIsTheIdlePartOfAWait) {
  Stream stream("compute", true);
  Countdown sleeper(3), mover(1);
  stream.wait({&sleeper, 1}, WaitReason::Pp);
  stream.wait({&mover, 1}, WaitReason::Dp);
  const auto pp = static_cast<int>(WaitReason::Pp), dp = static_cast<int>(WaitReason::Dp);
  EXPECT_GE(stream.profile().idle_seconds[pp], 0.002);  // two sleeps of a millisecond at least
  EXPECT_GE(stream.profile().wait_seconds[pp], stream.profile().idle_seconds[pp]);
  EXPECT_EQ(stream.profile().idle_seconds[dp], 0);
}

TEST(Stream, AReachedEventCostsNothing) {
  Stream stream("compute", true);
  stream.wait(stream.record(), WaitReason::Pp);
  EXPECT_EQ(stream.profile().wait_seconds[static_cast<int>(WaitReason::Pp)], 0);
}

TEST(Stream, RecordsAndWaitsAreTracedWithTheirReason) {
  Stream stream("communication", false);
  Trace trace;
  stream.set_trace(&trace);
  stream.wait(stream.record(), WaitReason::Offload);
  ASSERT_EQ(trace.size(), 2u);
  EXPECT_EQ(trace[0].info.kind, OpKind::Record);
  EXPECT_EQ(trace[1].info.kind, OpKind::Wait);
  EXPECT_EQ(trace[1].info.shape.extents[0], static_cast<int64_t>(WaitReason::Offload));
}

TEST(Stream, ProgressIsMadeForRegisteredWorkOnly) {
  Stream stream("compute", true);
  Countdown work(10);
  stream.make_progress();
  EXPECT_EQ(work.looks(), 10);
  stream.add_progress(&work);
  stream.make_progress();
  EXPECT_EQ(work.looks(), 9);
  stream.remove_progress(&work);
  stream.make_progress();
  EXPECT_EQ(work.looks(), 9);
}

TEST(Stream, AnErrorOfPendingWorkLeavesWait) {
  class Gone : public Pending {
    bool advance(uint64_t) override { throw CommError({"rank 1 is gone", {}, {}, {}}); }
    void sleep(uint64_t) override {}
  } work;
  Stream stream("compute", true);
  EXPECT_THROW(stream.wait({&work, 1}, WaitReason::Dp), CommError);
}

TEST(OpKind, EveryKindPhaseAndReasonHasItsOwnName) {
  const auto distinct = [](int count, auto name) {
    std::vector<std::string> names;
    for (int i = 0; i < count; i++) names.push_back(name(i));
    std::sort(names.begin(), names.end());
    return std::adjacent_find(names.begin(), names.end()) == names.end();
  };
  EXPECT_TRUE(distinct(op_kinds, [](int i) { return name_of(static_cast<OpKind>(i)); }));
  EXPECT_TRUE(distinct(phases, [](int i) { return name_of(static_cast<Phase>(i)); }));
  EXPECT_TRUE(distinct(wait_reasons, [](int i) { return name_of(static_cast<WaitReason>(i)); }));
  EXPECT_STREQ(name_of(OpKind::LinearForward), "linear_forward");
  EXPECT_STREQ(name_of(OpKind::Wait), "wait");
}

}  // namespace
}  // namespace tessera
