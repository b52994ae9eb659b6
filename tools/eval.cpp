// tessera eval: the loss on held-out text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>

#include "base/error.h"
#include "engine/training_run.h"
#include "tools/commands.h"
#include "tools/run_loading.h"

namespace tessera {

namespace {

void run_eval(const std::string& run_dir) {
  constexpr int64_t sequences = 4;
  OpenedRun opened = open_run(run_dir, sequences);
  const RunData data = open_run_data(opened.run);
  if (!data.validation || data.validation_samples < sequences) {
    throw DataError({fmt::format("{} held-out samples are too few", data.validation_samples), run_dir,
                     fmt::format("at least {}", sequences), "raise data.validation_fraction"});
  }
  const int64_t batches = data.validation_samples / sequences;
  const double loss = opened.trainer->evaluate(data.validation.get(), batches);
  fmt::print("held-out loss {:.4f} nats a token (perplexity {:.1f}) at step {}, over {} tokens\n", loss, std::exp(loss), opened.step,
             batches * opened.run.tokens_per_step());
}

}  // namespace

void add_eval(CLI::App& app) {
  auto* command = app.add_subcommand("eval", "loss of a run's newest checkpoint on its held-out text");
  auto run_dir = std::make_shared<std::string>();
  command->add_option("RUN_DIR", *run_dir, "a run's directory")->required();
  command->callback([run_dir] { run_eval(*run_dir); });
}

}  // namespace tessera
