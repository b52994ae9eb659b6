// tessera train: trains, or on `--device null` dry-runs, a configuration.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/system_memory.h"
#include "base/units.h"
#include "engine/dry_run.h"
#include "engine/run_lock.h"
#include "engine/training_run.h"
#include "kernels/cuda_module.h"
#include "planner/formula.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/run_loading.h"

namespace tessera {

namespace {

struct TrainArguments {
  std::string file, device = "cpu", as = "cpu", run_dir;
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
  const DeviceKind as = device_kind(arguments.as);
  const ResolvedRun run = resolve_untimed(loaded, ranks, as);
  if (arguments.rank < 0 || arguments.rank >= ranks) {
    throw ConfigError({fmt::format("rank {} does not exist", arguments.rank), "--rank", fmt::format("0 to {}", ranks - 1), {}});
  }
  const DeviceTraits traits = imitated(as, arguments.rank, run.threads);
  const DryRun dry = dry_run(run, arguments.rank, traits);
  MemoryTable table = predict_memory(memory_question(run, traits), arguments.rank);
  add_memory_rows(table, arguments.rank, dry.use, &MemoryRow::dry_run_bytes);
  std::fputs(table.text().c_str(), stdout);
  std::puts("");
  print_ops(dry.step);
}

std::filesystem::path choose_run_dir(const TrainArguments& arguments) {
  if (!arguments.run_dir.empty()) return arguments.run_dir;
  return std::filesystem::path("runs") / std::filesystem::path(arguments.file).stem();
}

/// A new run never touches what is there, and a resumed one never starts from nothing.
void expect_usable(const std::filesystem::path& run_dir, bool resume) {
  namespace fs = std::filesystem;
  const std::string name = run_dir.string();
  const bool holds_run = fs::exists(RunFiles(run_dir).config);
  if (resume && !holds_run) {
    throw ConfigError(
        {fmt::format("{} holds no run to resume", name), name, "the --run-dir of a run", "without --resume a new run starts"});
  }
  if (resume || !fs::exists(run_dir)) return;
  if (holds_run) throw ConfigError({fmt::format("the run {} exists", name), name, "--resume to go on with it, or another --run-dir", {}});
  const auto is_lock = [](const fs::directory_entry& entry) { return entry.path().filename() == RunLock::file_name; };
  if (!fs::is_directory(run_dir) || !std::ranges::all_of(fs::directory_iterator(run_dir), is_lock)) {
    throw ConfigError({fmt::format("{} is not empty and holds no run", name), name, "an empty or new --run-dir", {}});
  }
}

/// A word of a command line, quoted where a POSIX shell would take it apart.
std::string shell_quoted(const std::string& word) {
  constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:=@%,";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string resume_command(const std::filesystem::path& run_dir, int ranks) {
  return fmt::format("tessera train --run-dir {}{} --resume", shell_quoted(run_dir.string()),
                     ranks > 1 ? fmt::format(" --ranks {}", ranks) : "");
}

void run_real(const TrainArguments& arguments) {
  TrainingOptions options;
  options.device = device_kind(arguments.device);
  if (options.device == DeviceKind::Cuda) expect_gpus();  // before anything is written
  options.start_bytes = resident_memory_bytes();
  Messages messages;
  if (arguments.file.empty() && !(arguments.resume && !arguments.run_dir.empty())) {
    throw ConfigError({"no RUN.toml is given", "command line", "tessera train RUN.toml, or tessera train --run-dir DIR --resume", {}});
  }
  const std::filesystem::path run_dir = choose_run_dir(arguments);
  expect_usable(run_dir, arguments.resume);
  const RunLock lock(run_dir);
  expect_usable(run_dir, arguments.resume);  // nobody came in between
  // A resumed run is what its own file says, where everything is resolved: the layout, the number of steps of a time budget.
  const std::filesystem::path file = arguments.resume ? RunFiles(run_dir).config : std::filesystem::path(arguments.file);
  if (arguments.resume && !arguments.file.empty()) {
    messages.notice(fmt::format("{} is not read: the run goes on as {} says; --set changes it", arguments.file, file.string()));
  }
  const LoadedConfig loaded = load_config({file}, arguments.sets);
  const int ranks = arguments.ranks != 0 ? arguments.ranks : arguments.resume ? ranks_of(loaded.config) : 1;
  SignalWatch signals([&](std::optional<int64_t> step) {
    messages.notice(fmt::format("stopping {}, then saving; once more to quit without saving",
                                step ? fmt::format("after step {}", *step) : std::string("as soon as the run has begun")));
  });
  const ResolvedRun run = resolve_here(loaded, ranks, options.device);  // may start threads to measure: the watch comes before them
  const RunData data = open_run_data(run);
  options.run_dir = run_dir;
  options.resume = arguments.resume;
  options.predicted = predict_all(run, options.device);
  TrainingResult result;
  run_thread_ranks(ranks, [&](HostGroup& host) {
    const TrainingResult own = run_training(run, data, options, host, messages, host.rank() == 0 ? &signals : nullptr);
    if (host.rank() == 0) result = own;
  });
  if (!result.finished()) {
    messages.notice(
        fmt::format("stopped after step {} of {}; to go on: {}", result.steps_done, result.steps, resume_command(run_dir, ranks)));
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "train a configuration, or dry-run it on the null device");
  auto arguments = std::make_shared<TrainArguments>();
  command->add_option("RUN.toml", arguments->file, "configuration; `tessera config` lists its keys");
  command->add_option("--set", arguments->sets, "KEY=VALUE ..., over the file")->type_name("KEY=VALUE");
  add_checked_option(command, "--device", arguments->device, one_of({"cpu", "cuda", "null"}),
                     "null: count memory and operations, compute nothing");
  add_checked_option(command, "--as", arguments->as, one_of({"cpu", "cuda"}), "the device that the null device imitates; default cpu");
  add_checked_option(command, "--ranks", arguments->ranks, between(1, most_ranks),
                     "ranks, as threads of this process; default: 1, of a resumed run as many as it had");
  add_checked_option(command, "--rank", arguments->rank, between(0, most_ranks - 1), "the rank that the null device shows");
  command->add_option("--run-dir", arguments->run_dir, "where the run lives; default runs/NAME of NAME.toml");
  command->add_flag("--resume", arguments->resume, "go on with the run in --run-dir, as its config.toml says; --set changes it");
  command->callback([arguments] { arguments->device == "null" ? run_null(*arguments) : run_real(*arguments); });
}

}  // namespace tessera
