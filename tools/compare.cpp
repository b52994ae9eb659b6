// tessera compare: what a run measured beside what was predicted.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "engine/training_run.h"
#include "report/run_report.h"
#include "tools/commands.h"

namespace tessera {

void add_compare(CLI::App& app) {
  auto* command = app.add_subcommand("compare", "paper | formula | dry run | measured, and where the time went");
  auto run_dir = std::make_shared<std::string>();
  command->add_option("RUN_DIR", *run_dir, "a run's directory")->required();
  command->callback([run_dir] { std::fputs(read_run_report(RunFiles(*run_dir).report).text().c_str(), stdout); });
}

}  // namespace tessera
