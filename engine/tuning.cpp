#include "engine/tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

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

std::optional<DType> type_named(const std::string& name) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    if (name == name_of(dtype)) return dtype;
  }
  return std::nullopt;
}

Json to_json(const TunedOp& op) {
  Json seconds = Json::object();
  for (const TimedCandidate& candidate : op.measured) seconds[candidate.name] = candidate.seconds;
  return {{"op", name_of(op.kind)}, {"shape", op.shape.extents},     {"dtype", name_of(op.shape.dtype)},
          {"choice", op.choice},    {"seconds", std::move(seconds)}, {"device", op.device}};
}

TunedOp from_json(const Json& json) {
  TunedOp op{.kind = op_named(json.at("op").get<std::string>()),
             .shape = {},
             .choice = json.at("choice").get<std::string>(),
             .measured = {},
             .device = json.at("device").get<std::string>()};
  const auto extents = json.at("shape").get<std::vector<int64_t>>();
  const auto dtype = type_named(json.at("dtype").get<std::string>());
  if (!dtype || extents.size() != op.shape.extents.size()) op.kind = OpKind::Count;
  op.shape.dtype = dtype.value_or(DType::f32);
  std::copy_n(extents.begin(), std::min(extents.size(), op.shape.extents.size()), op.shape.extents.begin());
  for (const auto& [name, seconds] : json.at("seconds").items()) op.measured.push_back({name, seconds.get<double>()});
  return op;
}

/// What is not in `known`.
TuningTable without(TuningTable table, const TuningTable& known) {
  std::erase_if(table, [&](const TunedOp& op) { return find(known, op.kind, op.shape) != nullptr; });
  return table;
}

/// The ops of `mine` that no lower rank runs.
TuningTable to_measure(const TuningTable& mine, HostGroup& host) {
  const std::vector<std::string> lists = host.gather(tuning_text(mine));
  TuningTable lower;
  for (int rank = 0; rank < host.rank(); rank++) {
    for (const TunedOp& op : read_tuning(lists[static_cast<size_t>(rank)], "a rank's list of ops")) lower.push_back(op);
  }
  return without(mine, lower);
}

}  // namespace

std::string tuning_text(const TuningTable& table) {
  Json ops = Json::array();
  for (const TunedOp& op : table) ops.push_back(to_json(op));
  return Json{{"ops", std::move(ops)}}.dump(1) + "\n";
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

/// The table that the run begins with, the same on every rank. One rank reads: the others may stand on machines that do not see the file.
static TuningTable known_table(const ResolvedRun& run, const std::string& saved, HostGroup& host) {
  std::string text = saved;
  std::string where = "tuning.json";
  if (run.tuning_file() && saved.empty() && host.rank() == 0) {
    where = run.config.train.tuning;
    text = read_text_file(where);
    read_tuning(text, where);  // an empty file is no table either
  }
  text = host.broadcast(text);
  return text.empty() ? TuningTable() : read_tuning(text, where);
}

TuningTable tune(const ResolvedRun& run, const Trace& trace, const std::string& saved, Device& device, HostGroup& host,
                 Messages& messages) {
  if (run.config.train.tuning == "fixed") return {};
  TuningTable table = known_table(run, saved, host);
  const std::string here = device_text(device.traits());
  const auto elsewhere = std::ranges::find_if(table, [&](const TunedOp& op) { return op.device != here; });
  if (elsewhere != table.end() && host.rank() == 0) {
    messages.notice(fmt::format("the tuning table is that of {}, and this is {}", elsewhere->device, here));
  }
  if (!run.tuning_file()) {
    TuningTable mine;
    for (const TunedOp& op : to_measure(without(ops_to_tune(device, trace), table), host)) mine.push_back(measured(device, op));
    for (const std::string& measured_there : host.gather(tuning_text(mine))) {
      for (const TunedOp& op : read_tuning(measured_there, "a rank's tuning table")) table.push_back(op);
    }
  }
  const int unknown = choose(device, table);
  if (unknown > 0 && host.rank() == 0) {
    messages.notice(fmt::format("{} choices of the tuning table are unknown here: the rule decides", unknown));
  }
  std::erase_if(table, [](const TunedOp& op) { return op.kind == OpKind::Count; });
  return table;
}

}  // namespace tessera
