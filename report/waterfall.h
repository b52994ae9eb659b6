#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "report/json_file.h"

namespace tessera {

/// Where the seconds of a step go. Exposed communication is the time inside Stream::wait, by reason: what computation did not hide.
///   Backward        without the recomputation inside it
///   ExposedTp, Dp   waiting for the ranks of an axis, until they arrive and until the data has moved
///   ExposedPp       inside waits for the pipeline, the time in which something moved; Bubble: the time asleep, since a neighbour had not
///                   yet handed over or taken its part
///   ExposedTied     first and last stage waiting for each other's gradient of a tied weight
///   ExposedControl  waiting for all ranks to agree on norm, skipping and stopping
///   Optimizer       zeroing, sums of gradients over ranks, norm and update
///   Data            reading and sorting tokens on the host
///   Checkpoint      saving between steps, shared out over the steps
enum class Bar : uint8_t {
  Forward,
  Backward,
  Recompute,
  ExposedTp,
  ExposedDp,
  ExposedPp,
  ExposedTied,
  ExposedControl,
  Bubble,
  Optimizer,
  Data,
  Checkpoint,
  Count
};
constexpr int bars = static_cast<int>(Bar::Count);

/// Names of tables and JSON: "forward", "exposed_tp", ...
constexpr const char* name_of(Bar bar) {
  constexpr std::array<const char*, bars> names = {"forward",    "backward",   "recompute",    "exposed_tp",
                                                   "exposed_dp", "exposed_pp", "exposed_tied", "exposed_control",
                                                   "bubble",     "optimizer",  "data",         "checkpoint"};
  return names[static_cast<int>(bar)];
}

/// One step's time (or the mean of many, and of many ranks), in seconds, split into bars. With other() the bars add up to the step.
struct Waterfall {
  double step_seconds = 0;
  std::array<double, bars> bar_seconds{};

  double& operator[](Bar bar) { return bar_seconds[static_cast<int>(bar)]; }
  double operator[](Bar bar) const { return bar_seconds[static_cast<int>(bar)]; }
  /// The step minus all bars. Negative when the bars overlap: a fault of the measurement, shown rather than hidden.
  double other() const;
  /// Of `seconds` in the step; 0 for an empty step.
  double share(double seconds) const { return step_seconds > 0 ? seconds / step_seconds : 0; }
  /// A line for each bar that is not zero, drawn from where the one above ended, with percent and seconds. It is shown as what a report
  /// holds: the mean over all ranks.
  std::string text() const;
  bool operator==(const Waterfall&) const = default;
};

/// The mean of what several ranks measured, at least one. Ranks of a pipeline differ: no single one stands for the run.
Waterfall mean_of(std::span<const Waterfall> ranks);

/// Keys, all in seconds: step, then each bar by name, then other.
void to_json(Json& json, const Waterfall& waterfall);
void from_json(const Json& json, Waterfall& waterfall);

}  // namespace tessera
