#include "engine/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <optional>

namespace tessera {

namespace {

/// Counts announcements and lets a test wait for the first, however long it takes.
struct Announcements {
  std::atomic<int> count = 0;
  void add() {
    count++;
    count.notify_all();
  }
  void await() const { count.wait(0); }
};

bool is_blocked(int signal) {
  sigset_t blocked;
  sigemptyset(&blocked);
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  return sigismember(&blocked, signal) == 1;
}

}  // namespace

/// Signals go to programs that are started for it: the watch comes before any other thread there, and nothing else is hit.
class SignalWatchTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    testing::GTEST_FLAG(death_test_style) = "threadsafe";
    alarm(300);  // a program that misses its signal must not wait for ever
  }
  void TearDown() override { alarm(0); }
};

TEST_P(SignalWatchTest, TheFirstSignalAsksForAStopInEveryLaterStep) {
  EXPECT_EXIT(
      {
        Announcements announced;
        std::atomic<int64_t> last = -1;
        SignalWatch watch([&](std::optional<int64_t> step) { last = step.value_or(-2), announced.add(); });
        watch.begin(0, 1000);
        const bool early = watch.vote(0) || watch.vote(1);
        kill(getpid(), GetParam());
        announced.await();
        const bool late = watch.vote(2) && watch.vote(3);
        _exit(!early && late && announced.count == 1 && last == 4 ? 0 : 1);  // step 2 (the third) votes, step 3 is the fourth
      },
      testing::ExitedWithCode(0), "");
}

TEST_P(SignalWatchTest, ASecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        SignalWatch watch([](auto) { kill(getpid(), GetParam()); });
        kill(getpid(), SIGINT);
        while (true) pause();
      },
      testing::ExitedWithCode(128 + GetParam()), "");
}

TEST_P(SignalWatchTest, TheSignalsAreOrdinaryAgainWhenTheWatchEnds) {
  ASSERT_FALSE(is_blocked(GetParam()));
  {
    SignalWatch watch([](auto) {});
    EXPECT_TRUE(is_blocked(GetParam()));  // in threads that start from here
  }
  EXPECT_FALSE(is_blocked(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Signals, SignalWatchTest, testing::Values(SIGINT, SIGTERM),
                         [](const auto& test) { return std::string(test.param == SIGINT ? "Interrupt" : "Terminate"); });

TEST(SignalWatchAlone, ASignalBeforeTheRunBeginsIsAnnouncedWithItsStepWhenItDoes) {
  EXPECT_EXIT(
      {
        Announcements announced;
        std::atomic<int64_t> last = -1;
        SignalWatch watch([&](std::optional<int64_t> step) { last = step.value_or(-2), announced.add(); });
        kill(getpid(), SIGTERM);
        announced.await();
        const bool unknown = last == -2;
        watch.begin(10, 1000);
        _exit(unknown && last == 12 && watch.vote(10) ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(SignalWatchAlone, AsksForNothingWithoutASignal) {
  Announcements announced;
  {
    SignalWatch watch([&](auto) { announced.add(); });
    watch.begin(0, 1000);
    for (int64_t step = 0; step < 100; step++) EXPECT_FALSE(watch.vote(step));
  }
  EXPECT_EQ(announced.count, 0);
}

}  // namespace tessera
