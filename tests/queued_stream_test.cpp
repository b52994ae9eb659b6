// Streams with a queue behind them: ops run later, times are the device's.
#include <gtest/gtest.h>

#include <array>

#include "kernels/stream.h"
#include "tests/lazy_queue.h"

namespace tessera {
namespace {

struct Queued {
  explicit Queued(const char* name = "compute", bool timed = true) : stream(name, timed, std::make_unique<LazyQueue>()) {}
  LazyQueue& queue() { return static_cast<LazyQueue&>(*stream.queue()); }
  /// An op that takes as many seconds as it copies bytes.
  void copy(std::vector<char>& to, const std::vector<char>& from) {
    const auto bytes = std::ssize(from);
    run_op(stream, {.kind = OpKind::Copy, .shape = {{bytes}, DType::u8}}, [&] { stream.copy_bytes(to.data(), from.data(), bytes); });
  }
  Stream stream;
};

double copy_seconds(Profile& profile, Phase phase) { return profile.op_seconds[static_cast<int>(OpKind::Copy)][static_cast<int>(phase)]; }

TEST(QueuedStream, OpsRunWhenTheHostWaitsForThemAndNotBefore) {
  Queued device;
  std::vector<char> from(3, 'x'), to(3, '-');
  device.copy(to, from);
  EXPECT_EQ(to[0], '-');
  EXPECT_EQ(device.queue().sleeps, 0);
  device.stream.finish();
  EXPECT_EQ(to[2], 'x');
}

TEST(QueuedStream, OpTimesAreTheDevicesByKindAndPhase) {
  Queued device;
  std::vector<char> a(100), b(100), c(7), d(7);
  device.stream.set_phase(Phase::Forward);
  device.copy(a, b);
  device.stream.set_phase(Phase::Backward);
  device.copy(c, d);
  Profile& profile = device.stream.profile();
  EXPECT_EQ(copy_seconds(profile, Phase::Forward), 100);
  EXPECT_EQ(copy_seconds(profile, Phase::Backward), 7);
}

TEST(QueuedStream, TimesReachTheTraceThatWasSetWhenTheOpWasEnqueued) {
  Queued device;
  Trace first, second;
  std::vector<char> a(5), b(5), c(9), d(9);
  device.stream.set_trace(&first);
  device.copy(a, b);
  device.stream.set_trace(&second);
  device.copy(c, d);
  device.stream.set_trace(nullptr);
  ASSERT_EQ(first.size(), 1u);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(first[0].seconds, 5);
  EXPECT_EQ(second[0].seconds, 9);
}

TEST(QueuedStream, ManyOpsAreAddedUpWithoutTheHostWaiting) {
  Queued device;
  std::vector<char> a(2), b(2);
  for (int i = 0; i < 1000; i++) {
    device.copy(a, b);
    if (i == 500) device.queue().sleep(400);  // the device has come that far
  }
  EXPECT_EQ(device.queue().sleeps, 1);
  EXPECT_EQ(copy_seconds(device.stream.profile(), Phase::Setup), 2000);
}

TEST(QueuedStream, WhatComesBehindAWaitComesAfterTheOtherStreamsWork) {
  Queued compute, copies("copies");
  std::vector<char> host(4, 'n'), device(4, 'o'), result(4, '-');
  copies.copy(device, host);
  compute.stream.wait(copies.stream.record(), WaitReason::Data);
  compute.copy(result, device);
  compute.stream.finish();
  EXPECT_EQ(result[0], 'n');
  Profile& profile = compute.stream.profile();
  EXPECT_EQ(profile.wait_seconds[static_cast<int>(WaitReason::Data)], 4) << "the time until the other stream's clock";
  EXPECT_EQ(copy_seconds(profile, Phase::Setup), 4);
}

TEST(QueuedStream, TheHostsOwnWorkIsNoTimeOfTheDevice) {
  Queued device;
  device.stream.add_host_seconds(WaitReason::Data, 3);
  EXPECT_EQ(device.stream.profile().wait_seconds[static_cast<int>(WaitReason::Data)], 0);
  Stream inlined("compute", true);
  inlined.add_host_seconds(WaitReason::Data, 3);
  EXPECT_EQ(inlined.profile().wait_seconds[static_cast<int>(WaitReason::Data)], 3);
}

TEST(QueuedStream, WorkOfTheHostIsDoneBeforeTheQueueJoinsIt) {
  class Collective : public Pending {
   public:
    bool advance(uint64_t) override { return --looks <= 0; }
    void sleep(uint64_t) override {}
    void join(uint64_t ticket, Queue&) override { joined = looks <= 0 ? ticket : 0; }
    int looks = 3;
    uint64_t joined = 0;
  } collective;
  Queued device;
  device.stream.wait({&collective, 5}, WaitReason::Dp);
  EXPECT_EQ(collective.joined, 5u);
}

TEST(QueuedStream, AnUntimedStreamLaysNoMarks) {
  Queued device("measure", false);
  std::vector<char> a(2), b(2);
  device.copy(a, b);
  EXPECT_EQ(device.queue().mark(), 1u);
}

}  // namespace
}  // namespace tessera
