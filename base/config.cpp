#include "base/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#include "base/edit_distance.h"
#include "base/error.h"
#include "base/toml.h"

namespace tessera {

Legal any() { return {}; }
Legal at_least(double least) { return {.least = least}; }
Legal between(double least, double most) { return {.least = least, .most = most}; }
Legal half_open(double least, double most) { return {.least = least, .most = most, .most_excluded = true}; }
Legal positive() { return {.least = 0, .least_excluded = true}; }
Legal one_of(std::vector<std::string> names) { return {.names = std::move(names)}; }

bool Legal::allows(double number) const {
  if (!std::isfinite(number)) return false;
  return (least_excluded ? number > least : number >= least) && (most_excluded ? number < most : number <= most);
}

bool Legal::allows(const std::string& name) const { return names.empty() || std::find(names.begin(), names.end(), name) != names.end(); }

std::string Legal::text() const {
  if (!names.empty()) return fmt::format("{}", fmt::join(names, ", "));
  const bool from = std::isfinite(least), to = std::isfinite(most);
  if (from && to && !least_excluded && !most_excluded) return fmt::format("{} to {}", least, most);
  std::string text;
  if (from) text = fmt::format("{} {}", least_excluded ? "above" : "at least", least);
  if (to) text += fmt::format("{}{} {}", from ? " and " : "", most_excluded ? "below" : "at most", most);
  return text;
}

std::string ConfigSource::where_of(const std::string& key) const {
  const auto found = where.find(key);
  return found == where.end() ? "default" : found->second;
}

static std::string type_name(const ConfigFields::Pointer& pointer) {
  constexpr std::array<const char*, std::variant_size_v<ConfigFields::Pointer>> names = {"bool",   "integer",         "number",
                                                                                         "string", "list of strings", "list of numbers"};
  return names[pointer.index()];
}

static std::string value_text(const ConfigFields::Pointer& pointer) {
  return std::visit([](const auto* value) { return toml_text(*value); }, pointer);
}

static std::string legal_text(const ConfigFields::Field& field) {
  if (std::holds_alternative<bool*>(field.value)) return "true, false";
  const std::string type = type_name(field.value), legal = field.legal.text();
  if (legal.empty()) return type;
  return field.legal.names.empty() ? type + ", " + legal : legal;
}

static bool allows(const Legal&, bool) { return true; }
static bool allows(const Legal& legal, int64_t value) { return legal.allows(static_cast<double>(value)); }
static bool allows(const Legal& legal, double value) { return legal.allows(value); }
static bool allows(const Legal& legal, const std::string& value) { return legal.allows(value); }
template <class Element>
static bool allows(const Legal& legal, const std::vector<Element>& list) {
  return std::all_of(list.begin(), list.end(), [&](const Element& value) { return allows(legal, value); });
}

/// False when the types do not match. An integer is a number too, and an empty list is a list of anything.
template <class Value>
static bool convert(const TomlValue& from, Value& to) {
  if (const auto* same = std::get_if<Value>(&from)) {
    to = *same;
    return true;
  }
  if constexpr (std::is_same_v<Value, double>) {
    const auto* integer = std::get_if<int64_t>(&from);
    if (integer) to = static_cast<double>(*integer);
    return integer;
  }
  if constexpr (std::is_same_v<Value, std::vector<double>>) {
    const auto* strings = std::get_if<std::vector<std::string>>(&from);
    return strings && strings->empty();
  }
  return false;
}

/// `text` is the value as it was written.
static void assign(const ConfigFields::Field& field, const TomlValue& from, const std::string& text, const std::string& where) {
  const auto reject = [&](const std::string& why, const std::string& hint) {
    throw ConfigError({field.key + " = " + text + " " + why, where, legal_text(field), hint});
  };
  std::visit(
      [&](auto* target) {
        std::remove_pointer_t<decltype(target)> value{};
        const std::string type = type_name(field.value);
        if (!convert(from, value)) reject((type == "integer" ? "is not an " : "is not a ") + type, {});
        if (!allows(field.legal, value)) {
          const auto* name = std::get_if<std::string>(&from);
          const std::string nearest = name ? nearest_name(*name, field.legal.names) : "";
          reject("is not a legal value", nearest.empty() ? "" : "did you mean `" + nearest + "`?");
        }
        *target = value;
      },
      field.value);
}

static std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }
static std::string_view table_part(std::string_view key) { return key.substr(0, key.size() - last_part(key).size()); }  // "train."

const ConfigFields::Field& ConfigFields::find(const std::string& key, const std::string& where) const {
  std::vector<std::string> known;
  for (const Field& field : fields_) {
    if (field.key == key) return field;
    known.push_back(field.key);
  }
  std::vector<std::string> inside;
  for (const Field& field : fields_)
    if (table_part(field.key) == key + ".") inside.push_back("`" + field.key + "`");
  if (!inside.empty())
    throw ConfigError({"`" + key + "` is a table, not a key", where, {}, fmt::format("its keys are {}", fmt::join(inside, ", "))});

  known.insert(known.end(), tables_.begin(), tables_.end());
  std::string nearest = nearest_name(key, known);
  for (const Field& field : fields_)  // the right key in the wrong table
    if (nearest.empty() && last_part(field.key) == last_part(key)) nearest = field.key;
  throw ConfigError({"unknown key `" + key + "`", where, {}, nearest.empty() ? "" : "did you mean `" + nearest + "`?"});
}

void ConfigFields::read(std::string_view toml, const std::string& where, ConfigSource* source) const {
  for (const TomlEntry& entry : parse_toml(toml, where)) {
    if (entry.is_table && std::find(tables_.begin(), tables_.end(), entry.key) != tables_.end()) continue;
    const std::string line = where + ", line " + std::to_string(entry.line);
    assign(find(entry.key, line), entry.value, entry.text, line);
    if (source) source->where[entry.key] = line;
  }
}

static std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

static std::vector<std::string> split_at_commas(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    parts.emplace_back(trimmed(text.substr(0, comma)));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

/// The text of --set as TOML: what needs quotes or brackets gets them.
static std::string as_toml(std::string_view text, const ConfigFields::Pointer& pointer) {
  const char first = text.empty() ? 0 : text.front();
  if (std::holds_alternative<std::string*>(pointer) && first != '"' && first != '\'') return toml_text(std::string(text));
  if (std::holds_alternative<std::vector<std::string>*>(pointer) && first != '[') return toml_text(split_at_commas(text));
  return std::string(text);
}

void ConfigFields::set(std::string_view assignment, ConfigSource* source) const {
  const std::string where = "--set";
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) throw ConfigError({"`" + std::string(assignment) + "` sets nothing", where, "KEY=VALUE", {}});
  const std::string key(trimmed(assignment.substr(0, equals))), text(trimmed(assignment.substr(equals + 1)));
  const Field& field = find(key, where);
  TomlValue value;
  try {
    const auto entries = parse_toml("value = " + as_toml(text, field.value), where);
    if (entries.size() == 1) value = entries.front().value;
  } catch (const ConfigError&) {  // not TOML: the empty value, which `assign` rejects by key, text and legal values
  }
  assign(field, value, text, where);
  if (source) source->where[key] = where;
}

std::string ConfigFields::toml() const {
  std::vector<std::string> prefixes = {""};
  for (const std::string& table : tables_) prefixes.push_back(table + ".");
  std::string text;
  for (const std::string& prefix : prefixes) {
    std::string lines;
    for (const Field& field : fields_)
      if (table_part(field.key) == prefix) lines += fmt::format("{} = {}\n", last_part(field.key), value_text(field.value));
    if (lines.empty()) continue;
    if (!text.empty()) text += "\n";
    if (!prefix.empty()) text += fmt::format("[{}]\n", prefix.substr(0, prefix.size() - 1));
    text += lines;
  }
  return text;
}

std::vector<ConfigKey> ConfigFields::list() const {
  std::vector<ConfigKey> keys;
  std::set<std::string> seen;
  for (const Field& field : fields_) {
    const bool legal = std::visit([&](const auto* value) { return allows(field.legal, *value); }, field.value);
    if (!legal) throw InternalError("the default of " + field.key + " is not one of its legal values");
    if (!seen.insert(field.key).second) throw InternalError("two fields have the key " + field.key);
    keys.push_back({field.key, type_name(field.value), value_text(field.value), legal_text(field), field.help});
  }
  return keys;
}

std::vector<ConfigDifference> ConfigFields::differences(const ConfigFields& right) const {
  std::vector<ConfigDifference> found;
  for (size_t i = 0; i < fields_.size(); i++) {
    const std::string a = value_text(fields_[i].value), b = value_text(right.fields_[i].value);
    if (a != b) found.push_back({fields_[i].key, a, b});
  }
  return found;
}

std::string read_config_file(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) error = std::make_error_code(std::errc::is_a_directory);
  std::ostringstream text;
  if (!error) {
    std::ifstream file(path, std::ios::binary);
    if (!file) error = {errno, std::generic_category()};
    if (file && file.peek() != EOF) text << file.rdbuf();
    if (!error && (file.bad() || text.fail())) error = std::make_error_code(std::errc::io_error);
  }
  if (error) throw ConfigError({"cannot read " + path.string() + ": " + error.message(), path.string(), "a readable TOML file", {}});
  return text.str();
}

}  // namespace tessera
