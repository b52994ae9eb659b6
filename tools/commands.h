#pragma once

namespace CLI {
class App;
}

namespace tessera {

/// One function a subcommand, in tools/NAME.cpp: declares its options and what runs when it is called. Errors are thrown; main prints them.
void add_bench(CLI::App& app);
void add_compare(CLI::App& app);
void add_config(CLI::App& app);
void add_eval(CLI::App& app);
void add_info(CLI::App& app);
void add_plan(CLI::App& app);
void add_sample(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_train(CLI::App& app);

}  // namespace tessera
