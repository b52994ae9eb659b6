// tessera train: trains, or on `--device null` dry-runs, a configuration.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/system_memory.h"
#include "base/units.h"
#include "engine/dry_run.h"
#include "engine/training_run.h"
#include "planner/formula.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/run_loading.h"

namespace tessera {

namespace {

struct TrainArguments {
  std::string file, device = "cpu", run_dir;
  std::vector<std::string> sets;
  int ranks = 0, rank = 0;
  bool resume = false;
};

/// One line for each op of a step: calls and FLOPs.
void print_ops(const Profile& profile) {
  std::puts("op                            calls         TFLOP");
  for (int kind = 0; kind < op_kinds; kind++) {
    int64_t calls = 0;
    double flops = 0;
    for (int phase = 0; phase < phases; phase++) calls += profile.op_calls[kind][phase], flops += profile.op_flops[kind][phase];
    if (calls > 0) fmt::print("{:26} {:8} {:13.6f}\n", name_of(static_cast<OpKind>(kind)), calls, flops * 1e-12);
  }
}

void run_null(const TrainArguments& arguments) {
  const LoadedConfig loaded = load_config({arguments.file}, arguments.sets);
  const int ranks = arguments.ranks != 0 ? arguments.ranks : ranks_of(loaded.config);
  const ResolvedRun run = resolve(loaded.config, loaded.source, ranks, loaded.tokenizer_vocab);
  if (arguments.rank < 0 || arguments.rank >= ranks) {
    throw ConfigError({fmt::format("rank {} does not exist", arguments.rank), "--rank", fmt::format("0 to {}", ranks - 1), {}});
  }
  const DryRun dry = dry_run(run, arguments.rank, {.kind = DeviceKind::Null, .name = "null", .threads = run.threads});
  MemoryTable table = predict_memory(run.model, run.layout, run.micro_batch, arguments.rank);
  add_memory_rows(table, arguments.rank, dry.use, &MemoryRow::dry_run_bytes);
  std::fputs(table.text().c_str(), stdout);
  std::puts("");
  print_ops(dry.step);
}

/// The run's directory: refuses one that exists unless it is resumed.
std::filesystem::path choose_run_dir(const TrainArguments& arguments) {
  const std::filesystem::path run_dir = arguments.run_dir.empty()
                                            ? std::filesystem::path("runs") / std::filesystem::path(arguments.file).stem()
                                            : std::filesystem::path(arguments.run_dir);
  const bool exists = std::filesystem::exists(RunFiles(run_dir).config);
  if (exists && !arguments.resume) {
    throw ConfigError(
        {fmt::format("the run {} exists", run_dir.string()), run_dir.string(), "--resume to go on with it, or another --run-dir", {}});
  }
  if (!exists && std::filesystem::exists(run_dir) && !(std::filesystem::is_directory(run_dir) && std::filesystem::is_empty(run_dir))) {
    throw ConfigError(
        {fmt::format("{} is not empty and holds no run", run_dir.string()), run_dir.string(), "an empty or new --run-dir", {}});
  }
  return run_dir;
}

void run_cpu(const TrainArguments& arguments) {
  if (arguments.file.empty()) throw ConfigError({"no RUN.toml is given", "command line", "tessera train RUN.toml", {}});
  TrainingOptions options;
  options.start_bytes = resident_memory_bytes();
  Messages messages;
  const int ranks = std::max(1, arguments.ranks);
  const std::filesystem::path run_dir = choose_run_dir(arguments);
  // On resume the run's own file comes first, so that what it resolved (the number of steps of a time budget) stays.
  const std::filesystem::path stored = RunFiles(run_dir).config;
  const LoadedConfig loaded =
      load_config({std::filesystem::exists(stored) ? stored : std::filesystem::path(), arguments.file}, arguments.sets);
  const ResolvedRun run = resolve(loaded.config, loaded.source, ranks, loaded.tokenizer_vocab);
  const RunData data = open_run_data(run);
  options.run_dir = run_dir;
  options.resume = arguments.resume;
  options.predicted = predict_all(run);
  SignalWatch signals([&](std::optional<int64_t> step) {
    messages.notice(fmt::format("stopping {}, then saving; once more to quit without saving",
                                step ? fmt::format("after step {}", *step) : std::string("as soon as the run has begun")));
  });
  TrainingResult result;
  run_thread_ranks(ranks, [&](HostGroup& host) {
    const TrainingResult own = run_training(run, data, options, host, messages, host.rank() == 0 ? &signals : nullptr);
    if (host.rank() == 0) result = own;
  });
  if (!result.finished()) {
    messages.notice(fmt::format("stopped after step {} of {}; to go on: tessera train {} --run-dir {} --resume", result.steps_done,
                                result.steps, arguments.file, run_dir.string()));
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "train a configuration, or dry-run it on the null device");
  auto arguments = std::make_shared<TrainArguments>();
  command->add_option("RUN.toml", arguments->file, "configuration; `tessera config` lists its keys");
  command->add_option("--set", arguments->sets, "KEY=VALUE ..., over the file")->type_name("KEY=VALUE");
  add_checked_option(command, "--device", arguments->device, one_of({"cpu", "null"}), "null: count memory and operations, compute nothing");
  add_checked_option(command, "--ranks", arguments->ranks, between(1, most_ranks), "ranks, as threads of this process");
  add_checked_option(command, "--rank", arguments->rank, between(0, most_ranks - 1), "the rank that the null device shows");
  command->add_option("--run-dir", arguments->run_dir, "where the run lives; default runs/NAME of NAME.toml");
  command->add_flag("--resume", arguments->resume, "go on with an existing run");
  command->callback([arguments] { arguments->device == "null" ? run_null(*arguments) : run_cpu(*arguments); });
}

}  // namespace tessera
