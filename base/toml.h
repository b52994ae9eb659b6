#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// TOML text as plain values, so that toml++, which is slow to compile, is included by one source file.
namespace tessera {

/// monostate: something that no configuration field takes (a date, a table, a list that is neither all strings nor all numbers).
/// An empty list is the list of strings.
using TomlValue = std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<std::string>, std::vector<double>>;

struct TomlEntry {
  std::string key;  // dotted: "train.steps"; a part that is no bare key stands in quotes
  bool is_table = false;
  TomlValue value;
  std::string text;  // the value in TOML notation, for errors
  int64_t line = 0;  // from 1
};

/// Tables and values in the order of their lines. ConfigError naming `where` and the line when the text is not TOML.
std::vector<TomlEntry> parse_toml(std::string_view text, const std::string& where);

/// A value in TOML notation. Doubles have the shortest digits that read back to the same bits.
std::string toml_text(bool value);
std::string toml_text(int64_t value);
std::string toml_text(double value);
std::string toml_text(const std::string& value);
std::string toml_text(const std::vector<std::string>& value);
std::string toml_text(const std::vector<double>& value);

}  // namespace tessera
