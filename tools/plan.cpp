// tessera plan: paper, formula and dry run of every rank, before anything is allocated.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "engine/accounts.h"
#include "engine/dry_run.h"
#include "model/decls.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/run_loading.h"

namespace tessera {

namespace {

struct PlanArguments {
  std::string file;
  std::vector<std::string> sets;
  int ranks = 0;
  bool json = false;
};

void run_plan(const PlanArguments& arguments) {
  const LoadedConfig loaded = load_config({arguments.file}, arguments.sets);
  const int ranks = arguments.ranks != 0 ? arguments.ranks : ranks_of(loaded.config);
  const ResolvedRun run = resolve_untimed(loaded, ranks);
  MemoryTable table = predict_all(run);
  for (int rank = 0; rank < ranks; rank++) {
    const DryRun dry = dry_run(run, rank, imitated_cpu(run.threads));
    add_memory_rows(table, rank, dry.use, &MemoryRow::dry_run_bytes);
  }
  const int64_t parameters = parameter_count(declare_model(run.model)), lecture = lecture_parameter_count(run.model);
  if (arguments.json) {
    Json json = {{"parameters", parameters}, {"lecture_parameters", lecture}, {"ranks", ranks}, {"memory", Json::array()}};
    for (const MemoryRow& row : table.rows()) json["memory"].push_back(row);
    std::puts(json.dump(1).c_str());
    return;
  }
  fmt::print("parameters {} (12 l h^2 + 2 v h = {}), {} rank{}, {} micro-batches of {} x {} tokens\n\n", parameters, lecture, ranks,
             ranks == 1 ? "" : "s", run.layout.micro_batches(), run.micro_batch.B, run.micro_batch.T);
  std::fputs(table.text().c_str(), stdout);
}

}  // namespace

void add_plan(CLI::App& app) {
  auto* command = app.add_subcommand("plan", "memory of every rank of a layout: paper, formula, dry run");
  auto arguments = std::make_shared<PlanArguments>();
  command->add_option("RUN.toml", arguments->file, "configuration");
  command->add_option("--set", arguments->sets, "KEY=VALUE ..., over the file")->type_name("KEY=VALUE");
  add_checked_option(command, "--ranks", arguments->ranks, between(1, most_ranks), "ranks; default: the product of the parallel axes");
  command->add_flag("--json", arguments->json, "for programs");
  command->callback([arguments] { run_plan(*arguments); });
}

}  // namespace tessera
