// The `tessera` command: one file a subcommand. stdout is data, stderr is messages.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <new>

#include "base/error.h"
#include "report/messages.h"
#include "tools/commands.h"
#include "tools/options.h"

namespace {

using namespace tessera;

/// stdout is data: what could not be written is an error like that of any other file.
bool stdout_failed() { return std::fflush(stdout) != 0 || std::ferror(stdout) != 0; }
DataError stdout_error() { return DataError({"cannot write to stdout", "stdout", "a file on a disk with free space, or a pipe", {}}); }

/// Prints the error that is being handled, and returns the exit status that belongs to it (docs/decisions/0007-exit-statuses.md).
int report_error() {
  const auto print = [](const Error& error) {
    Messages().error(error);
    return error.exit_status();
  };
  try {
    throw;
  } catch (const Error& error) {
    return print(error);
  } catch (const std::bad_alloc&) {
    Messages().error("the system refused memory");
    return 4;
  } catch (const std::filesystem::filesystem_error& error) {
    return print(DataError({error.code().message(), error.path1().string(), {}, {}}));
  } catch (const std::exception& error) {
    if (stdout_failed()) return print(stdout_error());
    Messages().error(std::string("internal: ") + error.what());
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Tessera pretrains GPT models and accounts for every byte and every second of it.", "tessera");
  app.require_subcommand(1);
  app.fallthrough(false);
  for (auto* add : {add_train, add_plan, add_compare, add_tokenize, add_sample, add_eval, add_info, add_config, add_bench}) add(app);
  try {
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() != 0) throw usage_error(app, error);
      app.exit(error);  // --help
    }
    if (stdout_failed()) throw stdout_error();
    return 0;
  } catch (...) {
    return report_error();
  }
}
