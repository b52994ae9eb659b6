#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tessera {

/// What the one line of a running training shows: numbers only, whoever measured them.
struct LiveLine {
  int64_t step = 0, steps = 0;
  float loss = 0, grad_norm = 0, lr = 0;
  std::optional<float> val_loss;
  bool skipped = false;
  double step_seconds = 0, tokens_per_second = 0;  // means that leave out the first steps
  std::optional<double> mfu;                       // 0 to 1; no value while the peak is unknown
  std::string_view convention = "causal";
  int64_t memory_bytes = 0, capacity_bytes = 0;  // in use and available; a capacity of 0 is unknown and left out
  std::optional<double> seconds_left;
};

/// step   120/1000 | loss 3.4127 | norm  0.81 | lr 5.9e-04 |  412 ms |  318 ktok/s | MFU 46.2% causal |  61.3 of 139.8 GiB | 6 min left
/// Columns keep their places from line to line; parts that are not known are left out. No newline.
std::string format_live_line(const LiveLine& line);

/// "saved  120/1000", "step   120/1000": how every line about a step begins.
std::string format_step(std::string_view label, int64_t step, int64_t steps);

}  // namespace tessera
