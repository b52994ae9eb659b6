// tessera sample: text from a run's newest checkpoint.
#include <cstdio>

#include "base/error.h"
#include "engine/sampling.h"
#include "tokenizer/text_files.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/run_loading.h"

namespace tessera {

namespace {

struct SampleArguments {
  std::string run_dir, prompt = "\n";
  SamplingOptions options;
};

void run_sample(const SampleArguments& arguments) {
  OpenedRun opened = open_run(arguments.run_dir, 1);
  if (opened.run.config.data.tokenizer.empty()) throw ConfigError({"the run names no tokenizer", arguments.run_dir, "data.tokenizer", {}});
  const Tokenizer tokenizer = Tokenizer::open(opened.run.config.data.tokenizer);
  std::vector<int32_t> prompt = tokenizer.encode(arguments.prompt);
  if (prompt.empty()) prompt.push_back(tokenizer.end_of_document());
  std::vector<int32_t> tokens = prompt;
  sample(*opened.trainer, prompt, arguments.options, [&](int32_t token) {
    if (token == tokenizer.end_of_document()) return false;
    tokens.push_back(token);
    return true;
  });
  std::puts(valid_utf8(tokenizer.decode(tokens)).c_str());  // a sample may end inside a character
}

}  // namespace

void add_sample(CLI::App& app) {
  auto* command = app.add_subcommand("sample", "continue a prompt with a run's newest checkpoint");
  auto arguments = std::make_shared<SampleArguments>();
  SamplingOptions& options = arguments->options;
  command->add_option("RUN_DIR", arguments->run_dir, "a run's directory")->required();
  command->add_option("--prompt", arguments->prompt, "text to continue");
  add_checked_option(command, "--tokens", options.tokens, at_least(1), "the most tokens to add");
  add_checked_option(command, "--temperature", options.temperature, at_least(0), "0: always the likeliest token");
  add_checked_option(command, "--top-k", options.top_k, at_least(0), "only the k likeliest tokens; 0: all");
  add_checked_option(command, "--top-p", options.top_p, between(0, 1), "only the likeliest tokens that together reach p");
  add_checked_option(command, "--seed", options.seed, at_least(0), "another seed, another sample");
  command->callback([arguments] { run_sample(*arguments); });
}

}  // namespace tessera
