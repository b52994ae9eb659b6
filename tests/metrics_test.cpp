#include "report/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "report/json_file.h"

namespace tessera {

class MetricsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = std::filesystem::path(::testing::TempDir()) / ("tessera_metrics_" + name + "_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path path() const { return directory_ / "metrics.jsonl"; }
  void append_raw(const std::string& text) const { std::ofstream(path(), std::ios::app) << text; }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> out;
    for (const StepMetrics& metrics : MetricsLog::read(path())) out.push_back(metrics.step);
    return out;
  }

  std::filesystem::path directory_;
};

static StepMetrics at_step(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 1.0f / static_cast<float>(step);
  return metrics;
}

TEST(StepMetrics, OneLineWithExactlyTheNamesThatPeopleScriptOn) {
  StepMetrics metrics{120, 3.4127f, 5.9e-4f, 0.81f, 61440, 0.412f, 318000, 0.462f, 0.47f, 65536, 3.5f, false};
  EXPECT_EQ(to_line(metrics),
            R"({"step":120,"loss":3.4127,"lr":0.00059,"grad_norm":0.81,"tokens":61440,"step_seconds":0.412,"tokens_per_second":318000.0,)"
            R"("mfu":0.462,"hfu":0.47,"loss_scale":65536.0,"val_loss":3.5,"skipped":false})");
  metrics.val_loss.reset();
  EXPECT_EQ(to_line(metrics).find("val_loss"), std::string::npos);
}

TEST(StepMetrics, FloatsReadBackAsTheSameBits) {
  uint32_t bits = 1;
  for (int i = 0; i < 20000; i++) {
    bits = bits * 1664525u + 1013904223u;  // Numerical Recipes' generator: all exponents, subnormal numbers among them
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    StepMetrics metrics;
    metrics.loss = value;
    metrics.val_loss = -value;
    const StepMetrics back = metrics_from_line(to_line(metrics));
    ASSERT_EQ(std::bit_cast<uint32_t>(back.loss), bits) << to_line(metrics);
    ASSERT_EQ(std::bit_cast<uint32_t>(*back.val_loss), bits ^ 0x80000000u);
  }
}

TEST(StepMetrics, LargeCountsKeepEveryDigit) {
  StepMetrics metrics;
  metrics.tokens = 300'000'000'001;
  EXPECT_EQ(metrics_from_line(to_line(metrics)).tokens, 300'000'000'001);
}

TEST(StepMetrics, ANonFiniteLossIsValidJsonAndReadsAsNan) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    StepMetrics metrics;
    metrics.loss = value;
    metrics.skipped = true;
    EXPECT_TRUE(Json::accept(to_line(metrics)));
    EXPECT_TRUE(std::isnan(metrics_from_line(to_line(metrics)).loss));
    EXPECT_TRUE(metrics_from_line(to_line(metrics)).skipped);
  }
}

TEST(StepMetrics, ALineOfSomethingElseIsRefused) {
  EXPECT_THROW(metrics_from_line("{\"step\":1}"), DataError);
  EXPECT_THROW(metrics_from_line("not json"), DataError);
  EXPECT_THROW(metrics_from_line("[1]"), DataError);
}

TEST_F(MetricsFile, ALineIsInTheFileAsSoonAsItIsAppended) {
  MetricsLog log(path());
  log.append(at_step(1));
  EXPECT_EQ(read_text_file(path()), to_line(at_step(1)) + "\n");
}

TEST_F(MetricsFile, GoesOnWithAnExistingFile) {
  MetricsLog(path()).append(at_step(1));
  MetricsLog(path()).append(at_step(2));
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2}));
}

TEST_F(MetricsFile, TruncatingDropsLaterStepsAndEachStepStandsOnce) {
  MetricsLog log(path());
  for (int64_t step = 1; step <= 6; step++) log.append(at_step(step));
  log.truncate_after(4);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4}));
  for (int64_t step = 5; step <= 7; step++) log.append(at_step(step));
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(MetricsFile, TruncatingKeepsTheBytesOfTheLinesThatStay) {
  const std::string earlier = "{\"val_loss\": 3.50, " + to_line(at_step(1)).substr(1) + "\n";  // as another version might have spelled it
  append_raw(earlier + to_line(at_step(2)) + "\n");
  MetricsLog(path()).truncate_after(1);
  EXPECT_EQ(read_text_file(path()), earlier);
}

TEST_F(MetricsFile, ATornLastLineIsDropped) {
  MetricsLog(path()).append(at_step(1));
  for (const std::string& torn : {std::string("{\"step\":2,\"lo"), to_line(at_step(2)), std::string("{\"step\":2,\n")}) {
    append_raw(torn);
    EXPECT_EQ(steps(), (std::vector<int64_t>{1})) << torn;
    MetricsLog log(path());
    log.append(at_step(2));
    EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2})) << torn;
    log.truncate_after(1);
  }
}

TEST_F(MetricsFile, ABrokenLineInTheMiddleIsNamed) {
  append_raw(to_line(at_step(1)) + "\nbroken\n" + to_line(at_step(3)) + "\n");
  try {
    MetricsLog::read(path());
    FAIL() << "a broken line was read";
  } catch (const DataError& error) {
    EXPECT_NE(error.text().where.find("metrics.jsonl, line 2"), std::string::npos) << error.what();
  }
}

TEST_F(MetricsFile, AMissingFolderIsADataError) { EXPECT_THROW(MetricsLog(directory_ / "missing" / "metrics.jsonl"), DataError); }

/// A disk that holds files of at most so many bytes, until the end of the scope.
class SmallDisk {
 public:
  explicit SmallDisk(uint64_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small { bytes, before_.rlim_max };
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, SIG_DFL);
  }

 private:
  struct rlimit before_ {};
};

TEST_F(MetricsFile, AFullDiskIsADataErrorAndTheWholeLinesSurvive) {
  MetricsLog log(path());
  log.append(at_step(1));
  {
    const SmallDisk disk(std::filesystem::file_size(path()) + 10);  // the next line does not fit
    EXPECT_THROW(log.append(at_step(2)), DataError);
  }
  EXPECT_EQ(steps(), (std::vector<int64_t>{1}));
}

TEST_F(MetricsFile, AFullDiskWhileTruncatingLeavesTheOldFileAlone) {
  MetricsLog log(path());
  for (int64_t step = 1; step <= 3; step++) log.append(at_step(step));
  {
    const SmallDisk disk(10);
    EXPECT_THROW(log.truncate_after(2), DataError);
  }
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_FALSE(std::filesystem::exists(path().string() + ".partial"));
}

}  // namespace tessera
