// tessera config: every key, its default, legal values, meaning.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "base/config.h"
#include "engine/run_config.h"
#include "tools/commands.h"

namespace tessera {

namespace {

void print_text() {
  for (const ConfigKey& key : list_keys<RunConfig>()) {
    fmt::print("{:28} {:9} default {:10} {}\n{:28} {}\n", key.key, key.type, key.default_text,
               key.legal.empty() ? "" : "legal: " + key.legal, "", key.help);
  }
}

void print_markdown() {
  fmt::print(
      "# Configuration\n\nEvery key of RUN.toml, made by `tessera config --markdown`.\n\n| key | type | default | legal | meaning "
      "|\n|---|---|---|---|---|\n");
  for (const ConfigKey& key : list_keys<RunConfig>())
    fmt::print("| `{}` | {} | `{}` | {} | {} |\n", key.key, key.type, key.default_text, key.legal, key.help);
}

}  // namespace

void add_config(CLI::App& app) {
  auto* command = app.add_subcommand("config", "every key of RUN.toml: default, legal values, meaning");
  auto markdown = std::make_shared<bool>(false);
  command->add_flag("--markdown", *markdown, "as a table: docs/configuration.md");
  command->callback([markdown] { *markdown ? print_markdown() : print_text(); });
}

}  // namespace tessera
