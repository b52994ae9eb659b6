// The `tessera` command: one file a subcommand. stdout is data, stderr is messages.
#include <CLI/CLI.hpp>
#include <new>

#include "base/error.h"
#include "report/messages.h"
#include "tools/commands.h"
#include "tools/options.h"

int main(int argc, char** argv) {
  using namespace tessera;
  CLI::App app("Tessera pretrains GPT models and accounts for every byte and every second of it.", "tessera");
  app.require_subcommand(1);
  app.fallthrough(false);
  for (auto* add : {add_train, add_plan, add_compare, add_tokenize, add_sample, add_eval, add_info, add_config}) add(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    const ConfigError usage = usage_error(app, error);
    Messages().error(usage);
    return usage.exit_status();
  } catch (const Error& error) {
    Messages().error(error);
    return error.exit_status();
  } catch (const std::bad_alloc&) {
    Messages().error("the system refused memory");
    return 4;
  } catch (const std::exception& error) {
    Messages().error(std::string("internal: ") + error.what());
    return 1;
  }
}
