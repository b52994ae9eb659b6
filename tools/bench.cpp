// tessera bench: what a training step and each of its ops reach, beside ceilings measured in the same run.
#include <fmt/format.h>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "engine/accounts.h"
#include "engine/dry_run.h"
#include "engine/shared_memory.h"
#include "engine/step_bench.h"
#include "engine/tuning.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/run_loading.h"

namespace tessera {

namespace {

struct BenchArguments {
  std::string file, device = "cpu";
  std::vector<std::string> sets;
  double seconds = 5;
  bool json = false;
};

/// A bench and what it was run on.
struct Measured {
  ResolvedRun run;
  DeviceTraits device;
  TuningTable tuning;
  StepBench bench;
  double tokens_per_second() const { return static_cast<double>(run.tokens_per_step()) / bench.step_seconds; }
  double floor_share() const { return bench.floor_seconds() / bench.step_seconds; }
  /// "2 threads" that compute, or "132 multiprocessors".
  std::string units() const {
    const bool gpu = device.multiprocessors > 0;
    const int count = gpu ? device.multiprocessors : run.threads;
    return fmt::format("{} {}{}", count, gpu ? "multiprocessor" : "thread", count == 1 ? "" : "s");
  }
};

Measured measure(const BenchArguments& arguments) {
  std::vector<std::string> sets = arguments.sets;
  const auto of_model = [](const std::string& set) { return set.starts_with("model."); };
  if (arguments.file.empty() && std::ranges::none_of(sets, of_model)) sets.insert(sets.begin(), "model.preset=gpt2-124m");
  const LoadedConfig loaded = load_config({arguments.file}, sets);
  const DeviceKind kind = device_kind(arguments.device);
  Measured measured{.run = resolve_here(loaded, 1, kind), .device = {}, .tuning = {}, .bench = {}};
  const auto device = Device::real(kind, 0, measured.run.threads);
  const DryRun dry = dry_run(measured.run, 0, device->traits(), true);
  const auto host = make_self_group();
  expect_all_fit(dry, *device, *host);
  device->reserve(dry.size);
  Messages messages;
  measured.tuning = tune(measured.run, dry.trace, {}, *device, *host, messages);
  Mesh mesh(measured.run.layout, *host);
  Trainer trainer(measured.run, *device, mesh);
  measured.device = device->traits();
  measured.bench = bench_step(trainer, arguments.seconds);
  return measured;
}

double mfu_of(const Measured& measured, double peak_flops) {
  UtilizationInput input = utilization_input(measured.run);
  input.seconds = measured.bench.step_seconds, input.peak_flops = peak_flops;
  return utilization(Convention::Causal, input).mfu().value_or(0);
}
double mfu_of(const Measured& measured) { return mfu_of(measured, measured.bench.ceilings.matmul_flops_per_second); }

/// Of the manufacturer's figure, where there is one.
std::optional<double> nominal_mfu_of(const Measured& measured) {
  const auto nominal = nominal_peak_flops(measured.device.name, measured.run.precision.compute);
  return nominal ? std::optional(mfu_of(measured, *nominal)) : std::nullopt;
}

std::string shape_text(const OpInfo& info) {
  const bool linear = is_linear(info.kind);
  std::string text;
  for (size_t i = 0; i < info.shape.extents.size(); i++) {
    const int64_t extent = info.shape.extents[i];
    if (linear && i >= 3) {
      if (extent != 0) text += i == 3 ? " + bias" : ", added";
    } else if (extent != 0) {
      text += (text.empty() ? "" : " x ") + std::to_string(extent);
    }
  }
  return text;
}

/// "primitive; sgemm 1.31 x": the choice, and how much longer the others took.
std::string choice_text(const TuningTable& tuning, const OpInfo& info) {
  const TunedOp* op = find(tuning, info.kind, info.shape);
  if (!op) return "";
  const auto chosen = std::ranges::find(op->measured, op->choice, &TimedCandidate::name);
  std::string text = op->choice;
  for (const TimedCandidate& candidate : op->measured) {
    if (candidate.name != op->choice) text += fmt::format("; {} {:.2f} x", candidate.name, candidate.seconds / chosen->seconds);
  }
  return text;
}

int64_t bytes_of(const OpInfo& info) { return info.read_bytes + info.write_bytes; }

Json to_json(const OpCost& op, const TuningTable& tuning) {
  const TunedOp* tuned = find(tuning, op.info.kind, op.info.shape);
  return {{"op", name_of(op.info.kind)},
          {"phase", name_of(op.info.phase)},
          {"dtype", name_of(op.info.shape.dtype)},
          {"shape", op.info.shape.extents},
          {"calls", op.calls},
          {"flops", op.info.flops},
          {"bytes", bytes_of(op.info)},
          {"seconds", op.seconds},
          {"floor_seconds", op.floor_seconds},
          {"choice", tuned ? Json(tuned->choice) : Json()}};
}

Json to_json(const Measured& measured) {
  Json ops = Json::array();
  for (const OpCost& op : measured.bench.ops) ops.push_back(to_json(op, measured.tuning));
  const std::optional<double> nominal = nominal_mfu_of(measured);
  return {{"device", measured.device.name},
          {"isa", measured.device.isa},
          {"threads", measured.run.threads},
          {"multiprocessors", measured.device.multiprocessors},
          {"dtype", name_of(measured.run.precision.compute)},
          {"steps", measured.bench.steps},
          {"step_seconds", measured.bench.step_seconds},
          {"outside_seconds", measured.bench.outside_seconds},
          {"tokens_per_second", measured.tokens_per_second()},
          {"mfu", mfu_of(measured)},
          {"nominal_mfu", nominal ? Json(*nominal) : Json()},
          {"matmul_flops_per_second", measured.bench.ceilings.matmul_flops_per_second},
          {"bytes_per_second", measured.bench.ceilings.bytes_per_second},
          {"floor_seconds", measured.bench.floor_seconds()},
          {"floor_share", measured.floor_share()},
          {"waterfall", measured.bench.waterfall},
          {"ops", std::move(ops)}};
}

void print_heading(const Measured& measured) {
  const ModelSpec& model = measured.run.model;
  fmt::print("{}, {}, {}, {}: {} {} layers, hidden {}, {} heads, vocabulary {}; {} x {} tokens\n", measured.device.name,
             measured.device.isa, measured.units(), name_of(measured.run.precision.compute), model.architecture, model.layers, model.hidden,
             model.heads, model.vocab, measured.run.layout.batch_size, measured.run.micro_batch.T);
  fmt::print("ceilings: {} in the largest matmul, {} of memory\n", format_rate(measured.bench.ceilings.matmul_flops_per_second, "FLOP"),
             format_rate(measured.bench.ceilings.bytes_per_second, "B"));
}

void bench_steps(const BenchArguments& arguments) {
  const Measured measured = measure(arguments);
  if (arguments.json) return void(std::puts(to_json(measured).dump(1).c_str()));
  print_heading(measured);
  const std::optional<double> nominal = nominal_mfu_of(measured);
  fmt::print("{:.0f} tokens/s, {} a step ({} of {}), MFU {:.1f}% of that matmul{}, floor {}: achieved / floor {:.2f}\n\n",
             measured.tokens_per_second(), format_seconds(measured.bench.step_seconds), measured.device.host_memory ? "median" : "mean",
             measured.bench.steps, 100 * mfu_of(measured), nominal ? fmt::format(", {:.1f}% of the nominal peak", 100 * *nominal) : "",
             format_seconds(measured.bench.floor_seconds()), measured.floor_share());
  std::map<std::string, std::pair<double, double>> kinds;  // seconds, floor
  for (const OpCost& op : measured.bench.ops) {
    auto& [seconds, floor] = kinds[name_of(op.info.kind)];
    seconds += op.seconds, floor += op.floor_seconds;
  }
  std::vector<std::pair<std::string, std::pair<double, double>>> sorted(kinds.begin(), kinds.end());
  std::ranges::sort(sorted, std::greater(), [](const auto& kind) { return kind.second.first; });
  fmt::print("{:28} {:>10} {:>7} {:>10} {:>7}\n", "op", "time", "share", "floor", "reached");
  const auto line = [&](const std::string& name, double seconds, double floor) {
    fmt::print("{:28} {:>10} {:>6.1f}% {:>10} {:>7}\n", name, format_seconds(seconds), 100 * seconds / measured.bench.step_seconds,
               floor > 0 ? format_seconds(floor) : "", floor > 0 ? fmt::format("{:.2f}", floor / seconds) : "");
  };
  for (const auto& [name, cost] : sorted) line(name, cost.first, cost.second);
  line("outside ops", measured.bench.outside_seconds, 0);
}

void bench_ops(const BenchArguments& arguments) {
  const Measured measured = measure(arguments);
  if (arguments.json) return void(std::puts(to_json(measured).dump(1).c_str()));
  print_heading(measured);
  fmt::print("\n{:28} {:28} {:8} {:>5} {:>9} {:>9} {:>10} {:>12} {:>12} {:>7}  {}\n", "op", "shape", "phase", "calls", "FLOPs", "bytes",
             "time", "FLOP/s", "B/s", "reached", "chosen");
  for (const OpCost& op : measured.bench.ops) {
    const double each = op.seconds / static_cast<double>(op.calls);
    fmt::print("{:28} {:28} {:8} {:>5} {:>9} {:>9} {:>10} {:>12} {:>12} {:>7.2f}  {}\n",
               fmt::format("{} {}", name_of(op.info.kind), name_of(op.info.shape.dtype)), shape_text(op.info), name_of(op.info.phase),
               op.calls, format_count(op.info.flops), format_bytes(bytes_of(op.info)), format_seconds(each),
               format_rate(op.info.flops / each, "FLOP"), format_rate(static_cast<double>(bytes_of(op.info)) / each, "B"),
               op.floor_seconds / op.seconds, choice_text(measured.tuning, op.info));
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto* command = app.add_subcommand("bench", "speed beside ceilings that are measured in the same run");
  command->require_subcommand(1);
  const auto add = [command](const char* name, const char* help, void (*run)(const BenchArguments&)) {
    auto* sub = command->add_subcommand(name, help);
    auto arguments = std::make_shared<BenchArguments>();
    sub->add_option("RUN.toml", arguments->file, "configuration; none: gpt2-124m, or what --set says");
    sub->add_option("--set", arguments->sets, "KEY=VALUE ..., over the file")->type_name("KEY=VALUE");
    add_checked_option(sub, "--device", arguments->device, one_of({"cpu", "cuda"}), "what computes; default cpu");
    add_checked_option(sub, "--seconds", arguments->seconds, between(0, 3600), "of measured steps; default 5");
    sub->add_flag("--json", arguments->json, "for programs");
    sub->callback([arguments, run] { run(*arguments); });
  };
  add("step", "a training step: tokens/s, MFU, the floor, and which op kind the time goes to", bench_steps);
  add("ops", "every op and shape of a training step: FLOPs, bytes, time, share of the ceiling", bench_ops);
}

}  // namespace tessera
