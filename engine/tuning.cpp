#include "engine/tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "report/json_file.h"

namespace tessera {

namespace {

OpKind op_named(const std::string& name) {
  for (int kind = 0; kind < op_kinds; kind++) {
    if (name == name_of(static_cast<OpKind>(kind))) return static_cast<OpKind>(kind);
  }
  return OpKind::Count;  // of another version: no device knows it
}

DType type_named(const std::string& name) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    if (name == name_of(dtype)) return dtype;
  }
  return DType::f32;
}

Json to_json(const TunedOp& op) {
  Json seconds = Json::object();
  for (const TimedCandidate& candidate : op.measured) seconds[candidate.name] = candidate.seconds;
  return {{"op", name_of(op.kind)},
          {"shape", op.shape.extents},
          {"dtype", name_of(op.shape.dtype)},
          {"choice", op.choice},
          {"seconds", std::move(seconds)}};
}

TunedOp from_json(const Json& json) {
  TunedOp op{.kind = op_named(json.at("op").get<std::string>()),
             .shape = {json.at("shape").get<decltype(ShapeKey::extents)>(), type_named(json.at("dtype").get<std::string>())},
             .choice = json.at("choice").get<std::string>(),
             .measured = {}};
  for (const auto& [name, seconds] : json.at("seconds").items()) op.measured.push_back({name, seconds.get<double>()});
  return op;
}

/// What is not in `known`.
TuningTable without(TuningTable table, const TuningTable& known) {
  std::erase_if(table, [&](const TunedOp& op) { return find(known, op.kind, op.shape) != nullptr; });
  return table;
}

/// The ops of `mine` that no lower rank runs.
TuningTable to_measure(const TuningTable& mine, const DeviceTraits& device, HostGroup& host) {
  const std::vector<std::string> lists = host.gather(tuning_text(mine, device));
  TuningTable lower;
  for (int rank = 0; rank < host.rank(); rank++) {
    for (const TunedOp& op : read_tuning(lists[static_cast<size_t>(rank)], "a rank's list of ops")) lower.push_back(op);
  }
  return without(mine, lower);
}

}  // namespace

std::string tuning_text(const TuningTable& table, const DeviceTraits& device) {
  Json ops = Json::array();
  for (const TunedOp& op : table) ops.push_back(to_json(op));
  const Json json = {{"device", device.name}, {"isa", device.isa}, {"threads", device.threads}, {"ops", std::move(ops)}};
  return json.dump(1) + "\n";
}

TuningTable read_tuning(const std::string& text, const std::string& where) {
  try {
    TuningTable table;
    const Json json = Json::parse(text);
    for (const Json& op : json.at("ops")) table.push_back(from_json(op));
    return table;
  } catch (const nlohmann::json::exception& error) {
    throw DataError({fmt::format("{} is no tuning table: {}", where, error.what()), where, "a tuning.json that `tessera train` wrote", {}});
  }
}

bool is_tuning_of(const std::string& text, const DeviceTraits& device) {
  const Json json = Json::parse(text);
  return json.value("device", "") == device.name && json.value("isa", "") == device.isa && json.value("threads", 0) == device.threads;
}

TuningTable tune(const ResolvedRun& run, const Trace& trace, const std::string& saved, Device& device, HostGroup& host,
                 Messages& messages) {
  const std::string& mode = run.config.train.tuning;
  if (mode == "fixed") return {};
  const bool leads = host.rank() == 0;
  // One rank reads: the others may stand on machines that do not see the file.
  std::string text = leads ? (run.tuning_file() ? read_text_file(mode) : saved) : std::string();
  text = host.broadcast(text);
  TuningTable table = text.empty() ? TuningTable() : read_tuning(text, run.tuning_file() ? mode : "tuning.json");
  if (!text.empty() && !is_tuning_of(text, device.traits()) && leads) {
    messages.notice(fmt::format("the tuning table is that of another device or of other threads than {} with {}", device.traits().name,
                                device.traits().threads));
  }
  if (!run.tuning_file()) {
    TuningTable mine;
    for (const TunedOp& op : to_measure(without(ops_to_tune(device, trace), table), device.traits(), host)) {
      mine.push_back(measured(device, op));
    }
    for (const std::string& measured_there : host.gather(tuning_text(mine, device.traits()))) {
      for (const TunedOp& op : read_tuning(measured_there, "a rank's tuning table")) table.push_back(op);
    }
  }
  const int unknown = choose(device, table);
  if (unknown > 0 && leads) messages.notice(fmt::format("{} choices of the tuning table are unknown here: the rule decides", unknown));
  return table;
}

}  // namespace tessera
