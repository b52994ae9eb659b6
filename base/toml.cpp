#include "base/toml.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "base/error.h"

namespace tessera {

static std::string line_of(const std::string& where, int64_t line) { return where + ", line " + std::to_string(line); }

static bool is_bare_key(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

static TomlValue list_value(const toml::array& array) {
  std::vector<std::string> strings;
  std::vector<double> numbers;
  for (const toml::node& node : array) {
    if (node.is_string()) strings.push_back(node.ref<std::string>());
    if (node.is_number()) numbers.push_back(*node.value<double>());
  }
  if (strings.size() == array.size()) return strings;
  if (numbers.size() == array.size()) return numbers;
  return {};
}

static TomlValue plain_value(const toml::node& node) {
  if (node.is_boolean()) return node.ref<bool>();
  if (node.is_integer()) return node.ref<int64_t>();
  if (node.is_floating_point()) return node.ref<double>();
  if (node.is_string()) return node.ref<std::string>();
  if (node.is_array()) return list_value(*node.as_array());
  return {};
}

/// The value for an error message: in our notation, or in that of toml++ where ours has none.
static std::string written(const toml::node& node, const TomlValue& value) {
  if (node.is_table()) return "{...}";
  std::ostringstream foreign;
  node.visit([&](const auto& concrete) { foreign << concrete; });
  return std::visit(
      [&](const auto& known) {
        if constexpr (std::is_same_v<decltype(known), const std::monostate&>)
          return foreign.str();
        else
          return toml_text(known);
      },
      value);
}

static void flatten(const toml::table& table, const std::string& prefix, std::vector<TomlEntry>& entries) {
  for (const auto& [name, node] : table) {
    const std::string part(name.str());
    TomlEntry entry{
        prefix + (is_bare_key(part) ? part : toml_text(part)), node.is_table(), plain_value(node), {}, name.source().begin.line};
    entry.text = written(node, entry.value);
    entries.push_back(entry);
    if (node.is_table()) flatten(*node.as_table(), entry.key + ".", entries);
  }
}

std::vector<TomlEntry> parse_toml(std::string_view text, const std::string& where) {
  std::vector<TomlEntry> entries;
  try {
    flatten(toml::parse(text), "", entries);
  } catch (const toml::parse_error& error) {
    throw ConfigError({std::string(error.description()), line_of(where, error.source().begin.line), {}, {}});
  }
  std::stable_sort(entries.begin(), entries.end(), [](const TomlEntry& a, const TomlEntry& b) { return a.line < b.line; });
  return entries;
}

std::string toml_text(bool value) { return value ? "true" : "false"; }
std::string toml_text(int64_t value) { return std::to_string(value); }

std::string toml_text(double value) {
  char digits[32];
  std::string text(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";  // 3 would read back as an integer
  return text;
}

std::string toml_text(const std::string& value) {
  constexpr std::string_view escaped = "\"\\\b\t\n\f\r", letters = "\"\\btnfr";
  std::string text = "\"";
  for (const char c : value) {
    if (const size_t i = escaped.find(c); i != std::string_view::npos) {
      text += {'\\', letters[i]};
    } else if ((c >= 0 && c < 0x20) || c == 0x7f) {
      constexpr const char* hex = "0123456789ABCDEF";
      text += {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    } else {
      text += c;
    }
  }
  return text + '"';
}

template <class Element>
static std::string list_text(const std::vector<Element>& values) {
  std::string text;
  for (const Element& value : values) text += (text.empty() ? "" : ", ") + toml_text(value);
  return "[" + text + "]";
}
std::string toml_text(const std::vector<std::string>& value) { return list_text(value); }
std::string toml_text(const std::vector<double>& value) { return list_text(value); }

}  // namespace tessera
