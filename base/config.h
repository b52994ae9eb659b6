#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// Configuration structs and the one visitor that reads, writes, sets and lists them. A struct names each field once:
///
///     struct TrainConfig {
///       int64_t steps = 1000;
///       template <class Self, class Visit> static void fields(Self& self, Visit&& visit) {
///         visit("steps", self.steps, at_least(1), "optimizer steps to run");
///       }
///     };
///     struct RunConfig {
///       TrainConfig train;
///       template <class Self, class Visit> static void fields(Self& self, Visit&& visit) { visit.table("train", self.train); }
///     };
///
/// Fields are bool, int64_t, double, std::string, std::vector<std::string> or std::vector<double>; keys are dotted: "train.steps".
namespace tessera {

/// The legal values of a field; of a list, of each of its elements. Numbers must be finite in any case.
struct Legal {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool least_excluded = false, most_excluded = false;
  std::vector<std::string> names;  // strings only; empty: any string

  bool allows(double number) const;
  bool allows(const std::string& text) const;
  std::string text() const;  // "at least 1", "0 to 1", "above 0", "at least 0 and below 1", "cpu, cuda, null"; "" for any()
};
Legal any();
Legal at_least(double least);
Legal between(double least, double most);    // both ends are legal
Legal half_open(double least, double most);  // `most` is not legal
Legal positive();                            // above 0
Legal one_of(std::vector<std::string> names);

/// The keys that were given, and where: "train.steps" -> "configs/runs/small.toml, line 14" or "--set". Later reads overwrite earlier ones.
struct ConfigSource {
  std::map<std::string, std::string> where;

  bool sets(const std::string& key) const { return where.contains(key); }
  /// For the `where` of an error; "default" for a key that nobody gave.
  std::string where_of(const std::string& key) const;
};

/// One line of `tessera config` and docs/configuration.md.
struct ConfigKey {
  std::string key, type, default_text, legal, help;  // default_text in TOML notation
};

/// A key whose values differ in two structs, each in TOML notation.
struct ConfigDifference {
  std::string key, left, right;
};

/// The fields of one struct under their dotted keys, pointing into it: what `fields` visits, and all that the functions below need.
class ConfigFields {
 public:
  using Pointer = std::variant<bool*, int64_t*, double*, std::string*, std::vector<std::string>*, std::vector<double>*>;
  struct Field {
    std::string key;
    Pointer value;
    Legal legal;
    std::string help;
  };

  template <class Root>
  static ConfigFields of(Root& root) {
    ConfigFields fields;
    Root::fields(root, fields);
    return fields;
  }
  template <class Value>
  void operator()(std::string_view name, Value& value, Legal legal, std::string_view help) {
    fields_.push_back({prefix_ + std::string(name), &value, std::move(legal), std::string(help)});
  }
  template <class Table>
  void table(std::string_view name, Table& table) {
    const size_t length = prefix_.size();
    tables_.push_back(prefix_ + std::string(name));
    prefix_ = tables_.back() + ".";
    Table::fields(table, *this);
    prefix_.resize(length);
  }

  void read(std::string_view toml, const std::string& where, ConfigSource* source) const;
  void set(std::string_view assignment, ConfigSource* source) const;
  std::string toml() const;
  std::vector<ConfigKey> list() const;
  std::vector<ConfigDifference> differences(const ConfigFields& right) const;

 private:
  const Field& find(const std::string& key, const std::string& where) const;
  std::vector<Field> fields_;
  std::vector<std::string> tables_;  // dotted names of the tables
  std::string prefix_;
};

/// Overwrites the fields that the TOML text names and leaves the others, so that files can be read one over another.
/// `where` names the text in errors and in `source`, with the line. ConfigError: not TOML, an unknown key, a wrong type, an illegal value;
/// the fields before the error have then been overwritten.
template <class Root>
void read_toml_text(std::string_view text, const std::string& where, Root& root, ConfigSource* source = nullptr) {
  ConfigFields::of(root).read(text, where, source);
}

/// The whole file as text. ConfigError when it cannot be read.
std::string read_config_file(const std::filesystem::path& path);

/// read_toml_text of a file; `where` is its path.
template <class Root>
void read_toml_file(const std::filesystem::path& path, Root& root, ConfigSource* source = nullptr) {
  read_toml_text(read_config_file(path), path.string(), root, source);
}

/// One --set: "train.steps=100". Values are TOML, but a string needs no quotes and a list of strings no brackets:
/// "data.files=a.txt,b.txt".
template <class Root>
void apply_set(Root& root, std::string_view assignment, ConfigSource* source = nullptr) {
  ConfigFields::of(root).set(assignment, source);
}

/// Every key with its value, table by table; reading it again gives the same struct, doubles to the last bit.
template <class Root>
std::string write_toml(const Root& root) {
  Root copy = root;
  return ConfigFields::of(copy).toml();
}

/// The keys whose values differ, in the order of declaration.
template <class Root>
std::vector<ConfigDifference> differences(const Root& left, const Root& right) {
  Root a = left, b = right;
  return ConfigFields::of(a).differences(ConfigFields::of(b));
}

/// Every key in the order of declaration, with the default of a fresh Root.
/// InternalError when a default is not legal or a key stands twice.
template <class Root>
std::vector<ConfigKey> list_keys() {
  Root defaults{};
  return ConfigFields::of(defaults).list();
}

}  // namespace tessera
