#include "tools/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "base/edit_distance.h"

namespace tessera {

ConfigError illegal_value(const std::string& name, const std::string& text, const Legal& legal) {
  const std::string nearest = nearest_name(text, legal.names);
  return ConfigError({fmt::format("{} = {} is not a legal value", name, text), "command line", legal.text(),
                      nearest.empty() ? "" : fmt::format("did you mean `{}`?", nearest)});
}

/// The subcommand that the command line names: where the error lies.
static const CLI::App& innermost(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : innermost(*chosen.back());
}

/// "tessera tokenize train"
static std::string full_name(const CLI::App& app) { return (app.get_parent() ? full_name(*app.get_parent()) + " " : "") + app.get_name(); }

static std::vector<std::string> subcommands_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(sub->get_name());
  return names;
}

static std::vector<std::string> options_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_lnames().empty()) names.push_back("--" + option->get_lnames().front());
  }
  return names;
}

ConfigError usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = innermost(app);
  const std::vector<std::string> unexpected = app.remaining(/*recurse=*/true), subcommands = subcommands_of(command);
  const std::string help = fmt::format("`{} --help` says what it takes", full_name(command)), where = "command line";
  if (unexpected.empty()) {
    if (subcommands.empty()) return ConfigError({error.what(), where, {}, help});
    return ConfigError({"no subcommand is given", where, fmt::format("{}", fmt::join(subcommands, ", ")), help});
  }
  const std::string& first = unexpected.front();
  const bool is_option = first.starts_with('-');
  if (!is_option && subcommands.empty()) return ConfigError({fmt::format("`{}` is one argument too many", first), where, {}, help});
  const std::vector<std::string> legal = is_option ? options_of(command) : subcommands;
  const std::string nearest = nearest_name(first.substr(0, first.find('=')), legal);
  return ConfigError({fmt::format("unknown {} `{}`", is_option ? "option" : "subcommand", first), where,
                      fmt::format("{}", fmt::join(legal, ", ")), nearest.empty() ? help : fmt::format("did you mean `{}`?", nearest)});
}

}  // namespace tessera
