#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

/// One step, as one line of metrics.jsonl. The names of the fields are the keys of the line; people script on them.
/// Real numbers are fp32 and are written with few digits that read back as the same bits; NaN and infinity are written as null and read as
/// NaN.
struct StepMetrics {
  int64_t step = 0;     // 1 for the first
  float loss = 0;       // mean over the step's tokens, natural logarithm
  float lr = 0;         // the learning rate of this step
  float grad_norm = 0;  // of the whole gradient, before clipping
  int64_t tokens = 0;   // trained on since the start of the run, this step included
  float step_seconds = 0;
  float tokens_per_second = 0;  // over all ranks
  float mfu = 0, hfu = 0;       // shares of the peak, 0 to 1, by the convention of report.json
  float loss_scale = 1;
  std::optional<float> val_loss;  // present when this step ended with an evaluation
  bool skipped = false;           // not finite: nothing was updated
};

/// {"step":120,"loss":3.4127,...} without the newline.
std::string to_line(const StepMetrics& metrics);
/// DataError on anything else.
StepMetrics metrics_from_line(std::string_view line);

/// metrics.jsonl: only ever whole lines, each flushed as it is written. A process that dies while writing leaves at most a torn last line,
/// which reading and truncating drop.
class MetricsLog {
 public:
  /// Creates the file or goes on with it. Drops a torn last line, so that the next one begins at a line's beginning. DataError.
  explicit MetricsLog(std::filesystem::path path);

  /// DataError when the file cannot be written, a full disk among the reasons.
  void append(const StepMetrics& metrics);

  /// On resume: drops the lines of steps later than `step`, so that each step stands once. Atomic: the old file or the new one. DataError.
  void truncate_after(int64_t step);

  /// All whole lines. DataError on a file that is missing or has a line that is no metrics line, other than the last.
  static std::vector<StepMetrics> read(const std::filesystem::path& path);

 private:
  void open();

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace tessera
