// The `tessera` command: one file a subcommand. stdout is data, stderr is messages.
#include <CLI/CLI.hpp>
#include <new>

#include "base/edit_distance.h"
#include "base/error.h"
#include "report/messages.h"
#include "tools/commands.h"

namespace {

/// A misspelt subcommand is answered with its nearest neighbour.
void expect_known(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  std::string legal;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (sub->get_name() == argv[1]) return;
    names.push_back(sub->get_name());
    legal += (legal.empty() ? "" : ", ") + sub->get_name();
  }
  const std::string nearest = tessera::nearest_name(argv[1], names);
  throw tessera::ConfigError({std::string("unknown subcommand `") + argv[1] + "`", "command line", legal,
                              nearest.empty() ? "" : "did you mean `" + nearest + "`?"});
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tessera;
  CLI::App app("Tessera pretrains GPT models and accounts for every byte and every second of it.", "tessera");
  app.require_subcommand(1);
  app.fallthrough(false);
  for (auto* add : {add_train, add_plan, add_compare, add_tokenize, add_sample, add_eval, add_info, add_config}) add(app);
  try {
    expect_known(app, argc, argv);
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
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
