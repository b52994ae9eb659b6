#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace tessera {

/// Three significant digits of 0 <= value < 999.5: "0.25", "1.23", "12.3", "123".
static std::string three_digits(double value) {
  if (value < 0.9995) return fmt::format("{:.3g}", value);
  if (value < 9.995) return fmt::format("{:.2f}", value);
  if (value < 99.95) return fmt::format("{:.1f}", value);
  return fmt::format("{:.0f}", value);
}

struct Scaled {
  double value;
  const char* prefix;
};

/// Divides by 1000 until the value no longer rounds to four digits before the point.
static Scaled scale(double value) {
  constexpr std::array<const char*, 7> prefixes = {"", "k", "M", "G", "T", "P", "E"};
  size_t power = 0;
  for (; std::abs(value) >= 999.5 && power + 1 < prefixes.size(); power++) value /= 1000;
  return {value, prefixes[power]};
}

static std::string signed_digits(double value, const char* prefix) {
  const double size = std::abs(value);
  const bool whole = *prefix == 0 && size == std::floor(size);  // 7 tokens, not 7.00
  return fmt::format("{}{}", value < 0 ? "-" : "", whole ? fmt::format("{:.0f}", size) : three_digits(size));
}

std::string format_bytes(int64_t bytes) {
  constexpr std::array<const char*, 6> units = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (std::abs(static_cast<double>(bytes)) < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; std::abs(value) >= 1023.95 && unit + 1 < units.size(); unit++) value /= 1024;
  return fmt::format("{:.1f} {}", value, units[unit]);
}

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds)) return fmt::format("{} s", seconds);
  if (seconds < 0) return fmt::format("-{}", format_seconds(-seconds));
  if (seconds == 0) return "0 s";
  if (seconds < 999.5e-9) return three_digits(seconds * 1e9) + " ns";
  if (seconds < 999.5e-6) return three_digits(seconds * 1e6) + " us";
  if (seconds < 999.5e-3) return three_digits(seconds * 1e3) + " ms";
  if (seconds < 99.5) return three_digits(seconds) + " s";
  const double minutes = std::round(seconds / 60);
  if (minutes < 120) return fmt::format("{:.0f} min", minutes);
  if (minutes < 48 * 60) return fmt::format("{:.0f} h {:.0f} min", std::floor(minutes / 60), std::fmod(minutes, 60));
  const double hours = std::round(seconds / 3600);
  return fmt::format("{:.0f} d {:.0f} h", std::floor(hours / 24), std::fmod(hours, 24));
}

std::string format_count(double count) {
  const auto [value, prefix] = scale(count);
  return signed_digits(value, prefix) + (*prefix ? " " : "") + prefix;
}

std::string format_rate(double per_second, std::string_view unit) {
  const auto [value, prefix] = scale(per_second);
  return fmt::format("{} {}{}/s", signed_digits(value, prefix), prefix, unit);
}

}  // namespace tessera
