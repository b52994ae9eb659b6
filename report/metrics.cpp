#include "report/metrics.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "report/json_file.h"

namespace tessera {

namespace {

/// JSON whose numbers are fp32: printed with the digits that fp32 needs, and read by strtof. Reading as a double first would round twice.
using FloatJson = nlohmann::basic_json<nlohmann::ordered_map, std::vector, std::string, bool, int64_t, uint64_t, float>;

template <class Self, class Visit>
void visit_floats(Self& metrics, Visit visit) {
  visit("step_seconds", metrics.step_seconds);
  visit("tokens_per_second", metrics.tokens_per_second);
  visit("mfu", metrics.mfu);
  visit("hfu", metrics.hfu);
  visit("loss_scale", metrics.loss_scale);
}

float number(const FloatJson& json) { return json.is_null() ? std::numeric_limits<float>::quiet_NaN() : json.get<float>(); }

/// The whole lines of the file, each with its newline and what it says.
std::vector<std::pair<std::string, StepMetrics>> whole_lines(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  std::vector<std::pair<std::string, StepMetrics>> out;
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    const size_t newline = text.find('\n', begin);
    if (newline == std::string::npos) break;  // torn
    end = newline + 1;
    const std::string line = text.substr(begin, end - begin);
    try {
      out.push_back({line, metrics_from_line(line)});
    } catch (const DataError& error) {
      if (end == text.size()) break;  // torn by a file system that had grown the file before it wrote
      throw DataError({error.text().what, path.string() + ", line " + std::to_string(out.size() + 1), {}, {}});
    }
  }
  return out;
}

}  // namespace

std::string to_line(const StepMetrics& metrics) {
  FloatJson json = {
      {"step", metrics.step}, {"loss", metrics.loss}, {"lr", metrics.lr}, {"grad_norm", metrics.grad_norm}, {"tokens", metrics.tokens}};
  visit_floats(metrics, [&](const char* key, float value) { json[key] = value; });
  if (metrics.val_loss) json["val_loss"] = *metrics.val_loss;
  json["skipped"] = metrics.skipped;
  return json.dump();
}

StepMetrics metrics_from_line(std::string_view line) {
  try {
    const FloatJson json = FloatJson::parse(line);
    StepMetrics metrics;
    metrics.step = json.at("step").get<int64_t>();
    metrics.loss = number(json.at("loss"));
    metrics.lr = number(json.at("lr"));
    metrics.grad_norm = number(json.at("grad_norm"));
    metrics.tokens = json.at("tokens").get<int64_t>();
    visit_floats(metrics, [&](const char* key, float& value) { value = number(json.at(key)); });
    if (json.contains("val_loss")) metrics.val_loss = number(json.at("val_loss"));
    metrics.skipped = json.at("skipped").get<bool>();
    return metrics;
  } catch (const FloatJson::exception&) {
    throw DataError({"not a line of metrics: " + std::string(line.substr(0, 80)), {}, {}, {}});
  }
}

MetricsLog::MetricsLog(std::filesystem::path path) : path_(std::move(path)) {
  if (std::filesystem::exists(path_)) {
    truncate_after(std::numeric_limits<int64_t>::max());
  } else {
    open();
  }
}

void MetricsLog::open() {
  errno = 0;
  file_.close();
  file_.clear();
  file_.open(path_, std::ios::binary | std::ios::app);
  if (!file_) throw DataError({std::string("cannot open the metrics: ") + std::strerror(errno), path_.string(), {}, {}});
}

void MetricsLog::append(const StepMetrics& metrics) {
  errno = 0;
  file_ << to_line(metrics) + "\n" << std::flush;
  if (!file_) throw DataError({std::string("cannot write the metrics: ") + std::strerror(errno), path_.string(), {}, {}});
}

void MetricsLog::truncate_after(int64_t step) {
  std::string kept;
  for (const auto& [line, metrics] : whole_lines(path_)) {
    if (metrics.step <= step) kept += line;
  }
  write_text_atomically(path_, kept);
  open();  // the open file is the one that was replaced
}

std::vector<StepMetrics> MetricsLog::read(const std::filesystem::path& path) {
  std::vector<StepMetrics> out;
  for (auto& [line, metrics] : whole_lines(path)) out.push_back(metrics);
  return out;
}

}  // namespace tessera
