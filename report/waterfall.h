#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "report/json_file.h"

namespace tessera {

/// Where the seconds of a step go. Exposed communication is the time inside Stream::wait, by axis: what computation did not hide.
/// Backward excludes the recomputation inside it; Bubble is waiting for another pipeline stage to have work, beyond the transfer itself.
enum class Bar : uint8_t { Forward, Backward, Recompute, ExposedTp, ExposedDp, ExposedPp, Bubble, Optimizer, Data, Checkpoint, Count };
constexpr int bars = static_cast<int>(Bar::Count);

/// Names of tables and JSON: "forward", "exposed_tp", ...
constexpr const char* name_of(Bar bar) {
  constexpr std::array<const char*, bars> names = {"forward",    "backward", "recompute", "exposed_tp", "exposed_dp",
                                                   "exposed_pp", "bubble",   "optimizer", "data",       "checkpoint"};
  return names[static_cast<int>(bar)];
}

/// One step's time (or the mean of many), in seconds, split into bars. With other() the bars add up to the step.
struct Waterfall {
  double step_seconds = 0;
  std::array<double, bars> bar_seconds{};

  double& operator[](Bar bar) { return bar_seconds[static_cast<int>(bar)]; }
  double operator[](Bar bar) const { return bar_seconds[static_cast<int>(bar)]; }
  /// The step minus all bars. Negative when the bars overlap: a fault of the measurement, shown rather than hidden.
  double other() const;
  /// Of `seconds` in the step; 0 for an empty step.
  double share(double seconds) const { return step_seconds > 0 ? seconds / step_seconds : 0; }
  /// A line for each bar that is not zero, drawn from where the one above ended, with percent and seconds.
  std::string text() const;
  bool operator==(const Waterfall&) const = default;
};

/// Keys, all in seconds: step, then each bar by name, then other.
void to_json(Json& json, const Waterfall& waterfall);
void from_json(const Json& json, Waterfall& waterfall);

}  // namespace tessera
