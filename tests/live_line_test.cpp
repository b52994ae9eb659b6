#include "report/live_line.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>
#include <thread>
#include <vector>

#include "report/messages.h"

namespace tessera {

static LiveLine example() {
  LiveLine line;
  line.step = 120, line.steps = 1000;
  line.loss = 3.4127f, line.grad_norm = 0.81f, line.lr = 5.9e-4f;
  line.step_seconds = 0.412, line.tokens_per_second = 318000;
  line.mfu = 0.462;
  line.memory_bytes = 65820374630, line.capacity_bytes = 150109107814;
  line.seconds_left = 362;
  return line;
}

TEST(LiveLine, ShowsUnitsAndTheConvention) {
  EXPECT_EQ(format_live_line(example()),
            "step   120/1000 | loss 3.4127 | norm  0.81 | lr 5.9e-04 |  412 ms |  318 ktok/s | MFU 46.2% causal |  61.3 of 139.8 GiB | 6 "
            "min left");
}

TEST(LiveLine, KeepsItsColumnsFromTheFirstStepToTheLast) {
  LiveLine first = example(), last = example();
  first.step = 1, first.grad_norm = 12.5f, first.step_seconds = 1.234, first.tokens_per_second = 81200, first.mfu = 0.051,
  first.memory_bytes = 1 << 30;
  last.step = 1000, last.memory_bytes = last.capacity_bytes;
  const std::string a = format_live_line(first), b = format_live_line(last);
  ASSERT_EQ(a.size(), b.size()) << a << "\n" << b;
  for (size_t i = 0; i < a.size(); i++) EXPECT_EQ(a[i] == '|', b[i] == '|') << a << "\n" << b;
}

TEST(LiveLine, LeavesOutWhatIsNotKnown) {
  LiveLine line = example();
  line.mfu.reset(), line.seconds_left.reset();
  line.capacity_bytes = 0;
  EXPECT_EQ(format_live_line(line), "step   120/1000 | loss 3.4127 | norm  0.81 | lr 5.9e-04 |  412 ms |  318 ktok/s |  61.3 GiB");
}

TEST(LiveLine, ShowsAnEvaluationAndASkippedStep) {
  LiveLine line = example();
  line.val_loss = 3.5f;
  EXPECT_NE(format_live_line(line).find("| loss 3.4127 | val 3.5000 |"), std::string::npos);
  line.skipped = true;
  EXPECT_NE(format_live_line(line).find("| skipped: not finite |"), std::string::npos);
}

TEST(LiveLine, MemoryBelowAGibibyteIsInMebibytes) {
  LiveLine line = example();
  line.memory_bytes = 100 << 20, line.capacity_bytes = 512 << 20;
  EXPECT_NE(format_live_line(line).find("| 100.0 of 512.0 MiB |"), std::string::npos) << format_live_line(line);
}

TEST(FormatStep, LabelsOfOtherLinesStandInTheSamePlaces) {
  EXPECT_EQ(format_step("saved", 120, 1000), "saved  120/1000");
  EXPECT_EQ(format_step("step", 7, 10), "step   7/10");
}

/// What Messages wrote, from a temporary file in the terminal's place.
class MessagesFile : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(file_ = std::tmpfile(), nullptr); }
  void TearDown() override { std::fclose(file_); }
  std::string written() const {
    std::rewind(file_);
    std::string out;
    for (int c; (c = std::fgetc(file_)) != EOF;) out += static_cast<char>(c);
    return out;
  }
  std::FILE* file_ = nullptr;
};

TEST_F(MessagesFile, OffATerminalEveryLineIsWholeAndPlain) {
  {
    Messages messages({file_, false, false});
    messages.live("step 1");
    messages.live("step 2");
    messages.notice("saved 2");
    messages.error(ConfigError({"unknown key `train.stpes`", "--set", {}, "did you mean `train.steps`?"}));
  }
  EXPECT_EQ(written(), "step 1\nstep 2\nsaved 2\nerror: unknown key `train.stpes`\n  where: --set\n  hint:  did you mean `train.steps`?\n");
}

TEST_F(MessagesFile, OnATerminalTheLiveLineIsRewrittenAndStaysBelowOtherMessages) {
  {
    Messages messages({file_, true, false});
    messages.live("step 1");
    messages.live("step 2");
    messages.notice("saved 2");
  }
  EXPECT_EQ(written(), "\r\x1b[Kstep 1\r\x1b[Kstep 2\r\x1b[Ksaved 2\nstep 2\n");
}

TEST_F(MessagesFile, ThreadsShareItAndEveryLineStaysWhole) {
  {
    Messages messages({file_, false, false});
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 100; i++) t % 2 == 0 ? messages.live("a live line") : messages.notice("a notice");
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::istringstream lines(written());
  int live = 0, notices = 0;
  for (std::string line; std::getline(lines, line);) live += line == "a live line", notices += line == "a notice";
  EXPECT_EQ(live, 200);
  EXPECT_EQ(notices, 200);
}

TEST_F(MessagesFile, ColoursOnlyWhereTheSinkHasThem) {
  Messages({file_, true, true}).error("broken");
  EXPECT_EQ(written(), "\x1b[1;31merror:\x1b[0m broken\n");
}

TEST(MessageSink, NoColorIsRespected) {
  ::setenv("NO_COLOR", "1", 1);
  EXPECT_FALSE(MessageSink::standard_error().colors);
  ::unsetenv("NO_COLOR");
}

}  // namespace tessera
