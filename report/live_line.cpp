#include "report/live_line.h"

#include <fmt/format.h>

#include "base/units.h"

namespace tessera {

static std::string memory_text(int64_t used_bytes, int64_t capacity_bytes) {
  if (capacity_bytes <= 0) return fmt::format("{:>9}", format_bytes(used_bytes));
  // one unit for both, so that the eye compares figures
  constexpr int64_t GiB = int64_t{1} << 30, MiB = int64_t{1} << 20;
  const bool large = capacity_bytes >= GiB;
  const double unit = static_cast<double>(large ? GiB : MiB);
  const std::string capacity = fmt::format("{:.1f}", static_cast<double>(capacity_bytes) / unit);
  return fmt::format("{:>{}.1f} of {} {}", static_cast<double>(used_bytes) / unit, capacity.size(), capacity, large ? "GiB" : "MiB");
}

std::string format_step(std::string_view label, int64_t step, int64_t steps) {
  return fmt::format("{:<6}{:>{}}/{}", label, step, std::to_string(steps).size(), steps);
}

std::string format_live_line(const LiveLine& line) {
  std::string out = format_step("step", line.step, line.steps);
  out += fmt::format(" | loss {:6.4f}", line.loss);
  if (line.val_loss) out += fmt::format(" | val {:6.4f}", *line.val_loss);
  out += fmt::format(" | norm {:5.2f} | lr {:.1e}", line.grad_norm, line.lr);
  if (line.skipped) out += " | skipped: not finite";
  out += fmt::format(" | {:>7} | {:>11}", format_seconds(line.step_seconds), format_rate(line.tokens_per_second, "tok"));
  if (line.mfu) out += fmt::format(" | MFU {:4.1f}% {}", 100 * *line.mfu, line.convention);
  out += " | " + memory_text(line.memory_bytes, line.capacity_bytes);
  if (line.seconds_left) out += fmt::format(" | {} left", format_seconds(*line.seconds_left));
  return out;
}

}  // namespace tessera
