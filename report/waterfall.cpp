#include "report/waterfall.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/units.h"

namespace tessera {

double Waterfall::other() const {
  double rest = step_seconds;
  for (double seconds : bar_seconds) rest -= seconds;
  return rest;
}

std::string Waterfall::text() const {
  constexpr int width = 50;
  size_t name_width = 10;
  for (int i = 0; i < bars; i++) {
    if (bar_seconds[i] != 0) name_width = std::max(name_width, std::string_view(name_of(static_cast<Bar>(i))).size());
  }
  double start = 0;  // seconds: rounding each edge, not each length, lets the last bar end at the right margin
  const auto line = [&](const char* name, double seconds) {
    const auto column = [&](double at) { return std::clamp(static_cast<int>(std::lround(width * share(at))), 0, width); };
    const int from = column(std::min(start, start + seconds)), to = column(std::max(start, start + seconds));
    start += seconds;
    return fmt::format("{:<{}} |{:>{}}{:<{}}| {:5.1f}% | {:>7}\n", name, name_width, "", from,
                       std::string(static_cast<size_t>(to - from), '#'), width - from, 100 * share(seconds), format_seconds(seconds));
  };
  std::string out = fmt::format("a step takes {}, mean over all ranks\n", format_seconds(step_seconds));
  for (int i = 0; i < bars; i++) {
    if (bar_seconds[i] != 0) out += line(name_of(static_cast<Bar>(i)), bar_seconds[i]);
  }
  return out + line("other", other());
}

Waterfall mean_of(std::span<const Waterfall> ranks) {
  Waterfall mean;
  const double share = 1.0 / static_cast<double>(ranks.size());
  for (const Waterfall& rank : ranks) {
    mean.step_seconds += rank.step_seconds * share;
    for (int i = 0; i < bars; i++) mean.bar_seconds[i] += rank.bar_seconds[i] * share;
  }
  return mean;
}

void to_json(Json& json, const Waterfall& waterfall) {
  json = {{"step", waterfall.step_seconds}};
  for (int i = 0; i < bars; i++) json[name_of(static_cast<Bar>(i))] = waterfall.bar_seconds[i];
  json["other"] = waterfall.other();
}

void from_json(const Json& json, Waterfall& waterfall) {
  waterfall.step_seconds = json.at("step").get<double>();
  for (int i = 0; i < bars; i++) waterfall.bar_seconds[i] = json.at(name_of(static_cast<Bar>(i))).get<double>();
}

}  // namespace tessera
