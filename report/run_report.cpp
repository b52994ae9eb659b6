#include "report/run_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace tessera {

namespace {

Json loss_json(std::optional<float> loss) { return loss ? Json(*loss) : Json(); }  // written as null when it is not finite

std::optional<float> loss_from(const Json& json) { return json.is_number() ? std::optional(json.get<float>()) : std::nullopt; }

}  // namespace

std::string RunReport::text() const {
  std::string out;
  for (const auto& [name, value] : config) out += fmt::format("{:<12} {}\n", name, value);
  const auto loss = [](std::optional<float> value) { return value ? fmt::format("{:.4f}", *value) : std::string("-"); };
  if (first_loss || last_loss || val_loss) {
    out += fmt::format("{:<12} {} at first, {} at last, {} on held-out text\n", "loss", loss(first_loss), loss(last_loss), loss(val_loss));
  }
  const auto paragraph = [&](const std::string& text) { out += (out.empty() || text.empty() ? "" : "\n") + text; };
  if (waterfall) paragraph(waterfall->text());
  for (const UtilizationReceipt& receipt : utilization) paragraph(receipt.text());
  paragraph(memory.text());
  return out;
}

void to_json(Json& json, const RunReport& report) {
  Json config = Json::object();
  for (const auto& [name, value] : report.config) config[name] = value;
  json = {{"config", config},
          {"losses", {{"first", loss_json(report.first_loss)}, {"last", loss_json(report.last_loss)}, {"val", loss_json(report.val_loss)}}},
          {"memory", report.memory.rows()},
          {"processes", report.memory.processes()},
          {"waterfall_seconds", report.waterfall ? Json(*report.waterfall) : Json()},
          {"utilization", report.utilization}};
}

void from_json(const Json& json, RunReport& report) {
  report = {};
  for (const auto& [name, value] : json.at("config").items()) report.config.push_back({name, value.get<std::string>()});
  const Json& losses = json.at("losses");
  report.first_loss = loss_from(losses.at("first"));
  report.last_loss = loss_from(losses.at("last"));
  report.val_loss = loss_from(losses.at("val"));
  for (const Json& row : json.at("memory")) report.memory.add(row.get<MemoryRow>());
  for (const Json& process : json.at("processes")) report.memory.add(process.get<ProcessMemory>());
  if (!json.at("waterfall_seconds").is_null()) report.waterfall = json.at("waterfall_seconds").get<Waterfall>();
  report.utilization = json.at("utilization").get<std::vector<UtilizationReceipt>>();
}

void write_run_report(const std::filesystem::path& path, const RunReport& report) {
  write_text_atomically(path, Json(report).dump(1) + "\n");
}

RunReport read_run_report(const std::filesystem::path& path) {
  const Json json = read_json_file(path);
  try {
    return json.get<RunReport>();
  } catch (const Json::exception& error) {
    throw DataError({std::string("this is no report of a run: ") + error.what(), path.string(), {}, {}});
  } catch (const DataError& error) {
    throw DataError({error.text().what, path.string(), error.text().legal, error.text().hint});
  }
}

}  // namespace tessera
