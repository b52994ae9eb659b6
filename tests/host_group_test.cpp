#include "parallel/host_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <limits>
#include <thread>

#include "base/error.h"
#include "parallel/threads_comm.h"

namespace tessera {

namespace {

Tensor flat(std::vector<float>& data) { return Tensor(data.data(), DType::f32, {static_cast<int64_t>(data.size())}); }

/// What the system tells of a thread of this process: a line of state ("S" for asleep) and how often it went to sleep and was taken off a core.
std::string scheduling_of(pid_t thread) {
  std::ifstream status("/proc/self/task/" + std::to_string(thread) + "/status");
  std::string text;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("State:") || line.find("ctxt_switches:") != std::string::npos) text += line + "\n";
  }
  return text;
}

/// Looks at `threads` until all are asleep and have not woken since the last look; false after `looks`, 10 ms apart.
bool fall_asleep_for_good(const std::vector<std::atomic<pid_t>>& threads, int looks) {
  std::vector<std::string> before;
  for (int look = 0; look < looks; look++) {
    std::vector<std::string> now;
    bool asleep = true;
    for (const auto& thread : threads) {
      now.push_back(thread == 0 ? "" : scheduling_of(thread));
      asleep = asleep && now.back().find("State:\tS") != std::string::npos;
    }
    if (asleep && now == before) return true;
    before = std::move(now);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

template <class ErrorKind>
std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const ErrorKind& error) {
    return error.what();
  }
  ADD_FAILURE() << "the expected error was not thrown";
  return "";
}

}  // namespace

class HostGroupRanks : public testing::TestWithParam<int> {};

TEST_P(HostGroupRanks, HearTheBytesOfRankZero) {
  run_thread_ranks(GetParam(), [](HostGroup& host) {
    const std::string nul("a\0b", 3);
    for (int round = 0; round < 3; round++) {
      const std::string heard = host.broadcast(host.rank() == 0 ? nul + std::to_string(round) : "not this");
      EXPECT_EQ(heard, nul + std::to_string(round));
    }
  });
}

TEST_P(HostGroupRanks, GatherEveryRanksBytesByRank) {
  run_thread_ranks(GetParam(), [](HostGroup& host) {
    for (int round = 0; round < 3; round++) {
      const auto all = host.gather(std::string(host.rank(), 'x') + std::to_string(round));
      ASSERT_EQ(static_cast<int>(all.size()), host.size());
      for (int r = 0; r < host.size(); r++) EXPECT_EQ(all[r], std::string(r, 'x') + std::to_string(round));
    }
  });
}

TEST_P(HostGroupRanks, LeaveABarrierOnlyWhenAllHaveArrived) {
  std::atomic<int> arrived = 0;
  run_thread_ranks(GetParam(), [&](HostGroup& host) {
    for (int round = 1; round <= 3; round++) {
      arrived++;
      host.barrier();
      EXPECT_GE(arrived, round * host.size());
    }
  });
}

TEST_P(HostGroupRanks, CommunicateAlsoWhenTheyOutnumberTheCores) {
  run_thread_ranks(GetParam(), [](HostGroup& host) {
    std::vector<int> everyone;
    std::vector<int64_t> bounds = {0};
    for (int r = 0; r < host.size(); r++) everyone.push_back(r), bounds.push_back(r + 1);
    std::vector<float> whole(host.size(), -1);
    const auto comm = host.make_comm(everyone, "world", WaitReason::Control);
    Stream stream("communication", true);
    whole[host.rank()] = static_cast<float>(host.rank());
    stream.wait(comm->all_gather(flat(whole), bounds, stream), WaitReason::Control);
    for (int r = 0; r < host.size(); r++) EXPECT_EQ(whole[r], r);
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, HostGroupRanks, testing::Values(1, 2, 5, 32), testing::PrintToStringParamName());

TEST(HostGroupRanksErrors, ABarrierNamesTheMissingRanksAfterItsTimeout) {
  const std::string message = message_of<CommError>([] {
    run_thread_ranks(4, [](HostGroup& host) {
      if (host.rank() == 0) host.barrier(0.1);
      std::vector<float> buffer(2);  // the others are alive, but elsewhere
      const auto comm = host.make_comm({1, 2, 3}, "dp", WaitReason::Dp);
      Stream stream("communication", true);
      const int peer = (comm->rank() + 1) % 3;
      stream.wait(comm->p2p(std::vector<P2p>{{P2p::Kind::Receive, flat(buffer), peer}}, stream), WaitReason::Dp);
    });
  });
  EXPECT_EQ(message, "barrier on rank 0 waited 100 ms for ranks 1, 2 and 3");
}

TEST(HostGroupRanksErrors, ABarrierThatTimedOutMayBeCalledAgain) {
  std::atomic<bool> timed_out = false;
  run_thread_ranks(2, [&](HostGroup& host) {
    if (host.rank() == 0) {
      EXPECT_THROW(host.barrier(0.05), CommError);
      timed_out = true;
      timed_out.notify_one();
    } else {
      timed_out.wait(false);
    }
    host.barrier();
  });
}

TEST(HostGroupRanks, GatherWaitsForARankThatWorksLongerThanTheDataPlaneWouldWait) {
  run_thread_ranks(
      2,
      [](HostGroup& host) {
        if (host.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));  // as if it saved to a slow disk
        EXPECT_EQ(host.gather("x").size(), 2u);
      },
      /*timeout_seconds=*/0.02);
}

TEST(Patience, EndsWhenItsLimitHasBeenWaitedForInSlices) {
  const Patience::Clock::time_point start;
  Patience patience(600, start);
  auto now = start;
  int looks = 0;
  for (bool ended = false; !ended; looks++) {
    now = patience.next_look();
    ended = patience.ended(now);
  }
  EXPECT_NEAR(std::chrono::duration<double>(now - start).count(), 600, 10);  // a slice more, where their sum is rounded down
  EXPECT_NEAR(looks, 60, 1);
}

TEST(Patience, CountsEveryMomentHoweverOftenItIsWoken) {
  const Patience::Clock::time_point start;
  Patience patience(600, start);
  for (int second = 1; second <= 590; second++) EXPECT_FALSE(patience.ended(start + std::chrono::seconds(second)));
  EXPECT_TRUE(patience.ended(start + std::chrono::seconds(600)));
}

TEST(Patience, AStoppedProcessIsNotHeldAgainstAnyRank) {
  const Patience::Clock::time_point start;
  Patience patience(600, start);
  EXPECT_FALSE(patience.ended(start + std::chrono::hours(10)));
  EXPECT_FALSE(patience.ended(start + std::chrono::hours(10) + std::chrono::seconds(10)));
}

TEST(Patience, WithoutALimitNeverEnds) {
  const Patience::Clock::time_point start;
  Patience patience(std::numeric_limits<double>::infinity(), start);
  for (int day = 1; day <= 1000; day++) EXPECT_FALSE(patience.ended(start + std::chrono::hours(24 * day)));
}

TEST(HostGroupRanksErrors, ABarrierSaysAtOnceThatARankHasEnded) {
  const std::string message = message_of<CommError>([] {
    run_thread_ranks(3, [](HostGroup& host) {
      if (host.rank() != 1) host.barrier();
    });
  });
  EXPECT_NE(message.find("waits for rank 1, which ended"), std::string::npos) << message;
}

TEST(HostGroupRanksErrors, CallsThatDoNotMeetAreNamed) {
  const std::string message = message_of<InternalError>([] {
    run_thread_ranks(2, [](HostGroup& host) {
      if (host.rank() == 0) {
        host.barrier();
      } else {
        host.gather("x");
      }
    });
  });
  EXPECT_NE(message.find("barrier"), std::string::npos) << message;
  EXPECT_NE(message.find("gather"), std::string::npos) << message;
}

/// Where the other ranks are when one throws.
class ThrowingRanks : public testing::TestWithParam<const char*> {};

TEST_P(ThrowingRanks, ReleaseAllOthersWithOneError) {
  const std::string where = GetParam();
  std::atomic<int> released = 0;
  const std::string message = message_of<DataError>([&] {
    run_thread_ranks(6, [&](HostGroup& host) {
      std::vector<float> whole(6), other(1);
      const auto comm = host.make_comm({0, 1, 2, 3, 4, 5}, "dp", WaitReason::Dp);
      Stream stream("communication", true);
      host.barrier();
      if (host.rank() == 4) throw DataError({.what = "tokens.bin is truncated"});
      try {
        if (where == "barrier") host.barrier();
        if (where == "gather") host.gather("x");
        if (where == "all_gather")
          stream.wait(comm->all_gather(flat(whole), std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}, stream), WaitReason::Dp);
        if (where == "p2p") stream.wait(comm->p2p(std::vector<P2p>{{P2p::Kind::Receive, flat(other), 4}}, stream), WaitReason::Dp);
        if (where == "compute") {
          while (true) comm->pending()->advance(0), std::this_thread::yield();
        }
      } catch (const CommError& error) {
        EXPECT_NE(std::string(error.what()).find("rank 4: tokens.bin is truncated"), std::string::npos) << error.what();
        released++;
        throw;
      }
    });
  });
  EXPECT_EQ(message, "tokens.bin is truncated");
  EXPECT_EQ(released, 5);
}

INSTANTIATE_TEST_SUITE_P(Places, ThrowingRanks, testing::Values("barrier", "gather", "all_gather", "p2p", "compute"),
                         [](const auto& test) { return std::string(test.param); });

TEST(HostGroupRanksErrors, ARankThatThrowsLeavesNoBufferToBeRead) {
  // Rank 1 begins to copy the large message as soon as it has the small one, which is when rank 0 unwinds: its buffer dies right after its
  // communicator, and so large a block goes back to the system at once.
  constexpr int64_t elements = 4 << 20;
  for (int round = 0; round < 10; round++) {
    EXPECT_THROW(run_thread_ranks(2,
                                  [](HostGroup& host) {
                                    std::vector<float> small(1), large(elements, 1.0f);
                                    const auto comm = host.make_comm({0, 1}, "pp", WaitReason::Pp);
                                    Stream stream("communication", true);
                                    host.barrier();
                                    const auto kind = host.rank() == 0 ? P2p::Kind::Send : P2p::Kind::Receive;
                                    const auto one = [&](std::vector<float>& buffer) {
                                      return comm->p2p(std::vector<P2p>{{kind, flat(buffer), 1 - host.rank()}}, stream);
                                    };
                                    const Event first = one(small), second = one(large);
                                    stream.wait(first, WaitReason::Pp);
                                    if (host.rank() == 0) throw DataError({.what = "gone"});
                                    stream.wait(second, WaitReason::Pp);
                                    host.barrier();
                                  }),
                 DataError);
  }
}

TEST(HostGroupRanksErrors, EveryCallAfterAnAbortThrows) {
  run_thread_ranks(2, [](HostGroup& host) {
    std::vector<float> whole(2);
    const auto comm = host.make_comm({0, 1}, "dp", WaitReason::Dp);
    Stream stream("communication", true);
    host.barrier();
    if (host.rank() == 0) {
      host.abort("the disk is full");
      host.abort("a later message");
    } else {
      EXPECT_THROW(host.barrier(), CommError);
    }
    EXPECT_THROW(host.broadcast("x"), CommError);
    EXPECT_THROW(comm->pending()->advance(0), CommError);
    const std::string message = message_of<CommError>([&] { comm->all_gather(flat(whole), std::vector<int64_t>{0, 1, 2}, stream); });
    EXPECT_NE(message.find("the disk is full"), std::string::npos) << message;
  });
}

TEST(HostGroupRanksErrors, AnErrorThatIsNotOursIsRethrownAsItIs) {
  EXPECT_THROW(run_thread_ranks(3,
                                [](HostGroup& host) {
                                  if (host.rank() == 2) throw 42;
                                  host.barrier();
                                }),
               int);
}

TEST(HostGroupRanks, WaitWithoutSpinning) {
  // 16 ranks wait, half of them in each plane, until rank 0 has seen that all sleep and none wakes. On a busy machine that takes longer;
  // ranks that spin, or look again from time to time, never come to it.
  std::vector<std::atomic<pid_t>> waiting(16);
  run_thread_ranks(17, [&](HostGroup& host) {
    std::vector<float> buffer(1);
    std::vector<std::unique_ptr<Comm>> comms;
    Stream stream("communication", true);
    for (int r = 1; r <= 8; r++) {
      if (host.rank() == 0 || host.rank() == r) comms.push_back(host.make_comm({0, r}, "pair", WaitReason::Pp));
    }
    if (host.rank() == 0) {
      EXPECT_TRUE(fall_asleep_for_good(waiting, 3000));
      for (auto& comm : comms) stream.wait(comm->p2p(std::vector<P2p>{{P2p::Kind::Send, flat(buffer), 1}}, stream), WaitReason::Pp);
    } else {
      waiting[host.rank() - 1] = gettid();
      if (!comms.empty()) stream.wait(comms[0]->p2p(std::vector<P2p>{{P2p::Kind::Receive, flat(buffer), 0}}, stream), WaitReason::Pp);
    }
    host.barrier();
  });
}

TEST(HostGroupRanks, RefuseGroupsThatMakeNoSense) {
  run_thread_ranks(2, [](HostGroup& host) {
    EXPECT_THROW(host.make_comm({1 - host.rank()}, "dp", WaitReason::Dp), InternalError);
    EXPECT_THROW(host.make_comm({host.rank(), 2}, "dp", WaitReason::Dp), InternalError);
    EXPECT_THROW(host.make_comm({host.rank(), host.rank()}, "dp", WaitReason::Dp), InternalError);
    EXPECT_EQ(host.make_comm({host.rank()}, "dp", WaitReason::Dp)->size(), 1);
  });
}

TEST(SelfGroup, IsAWorldOfOne) {
  const auto host = make_self_group();
  EXPECT_EQ(host->rank(), 0);
  EXPECT_EQ(host->size(), 1);
  EXPECT_EQ(host->broadcast("x"), "x");
  EXPECT_EQ(host->gather("x"), std::vector<std::string>{"x"});
  host->barrier();
  EXPECT_EQ(host->make_comm({0}, "dp", WaitReason::Dp)->size(), 1);
}

TEST(NullGroup, ImaginesItsPeers) {
  const auto host = make_null_group(5, 8);
  EXPECT_EQ(host->rank(), 5);
  EXPECT_EQ(host->size(), 8);
  EXPECT_EQ(host->gather("x"), std::vector<std::string>(8, "x"));
  host->barrier();
  const auto comm = host->make_comm({1, 3, 5, 7}, "dp", WaitReason::Dp);
  EXPECT_EQ(comm->rank(), 2);
  EXPECT_EQ(comm->size(), 4);
  EXPECT_EQ(host->make_comm({5}, "tp", WaitReason::Tp)->size(), 1);
  EXPECT_THROW(host->make_comm({1, 3}, "dp", WaitReason::Dp), InternalError);
}

}  // namespace tessera
