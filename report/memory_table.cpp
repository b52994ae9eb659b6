#include "report/memory_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/error.h"
#include "base/units.h"

namespace tessera {

namespace {

struct NamedColumn {
  MemoryColumn column;
  const char* key;
  const char* title;
};
constexpr NamedColumn columns[] = {{&MemoryRow::paper_bytes, "paper_bytes", "paper"},
                                   {&MemoryRow::formula_bytes, "formula_bytes", "formula"},
                                   {&MemoryRow::dry_run_bytes, "dry_run_bytes", "dry run"},
                                   {&MemoryRow::measured_bytes, "measured_bytes", "measured"}};

constexpr int category_width = 16, bytes_width = 10;

auto place(const MemoryRow& row) { return std::tuple(row.rank, row.space, row.category); }

std::string cell(std::optional<int64_t> bytes) { return bytes ? format_bytes(*bytes) : "-"; }

template <class Value>
std::string line(const char* name, Value value_of) {
  std::string out = fmt::format("{:<{}}", name, category_width);
  for (const NamedColumn& named : columns) out += fmt::format(" | {:>{}}", value_of(named), bytes_width);
  return out + "\n";
}

/// The rows of one rank with the rank taken out, so that ranks can be compared.
std::vector<MemoryRow> rows_of(const MemoryTable& table, int rank) {
  std::vector<MemoryRow> out;
  for (MemoryRow row : table.rows()) {
    if (row.rank != rank) continue;
    row.rank = 0;
    out.push_back(row);
  }
  return out;
}

std::string block_text(const MemoryTable& table, const std::vector<int>& ranks, MemorySpace space) {
  std::string title = fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", rank_list(ranks));
  std::string out = fmt::format("{}, {} memory{}\n", title, name_of(space), ranks.size() == 1 ? "" : ", each");
  out += line("category", [](const NamedColumn& named) { return std::string(named.title); });
  for (const MemoryRow& row : table.rows()) {
    if (row.rank != ranks.front() || row.space != space) continue;
    out += line(name_of(row.category), [&](const NamedColumn& named) { return cell(row.*named.column); });
  }
  return out + line("total", [&](const NamedColumn& named) { return cell(table.total(ranks.front(), space, named.column)); });
}

std::string process_text(const ProcessMemory& process) {
  std::string out =
      fmt::format("process of {} {} ({})\n", process.ranks.size() == 1 ? "rank" : "ranks", rank_list(process.ranks), process.source);
  const auto entry = [&](const std::string& name, int64_t bytes) {
    out += fmt::format("  {:<24} {:>{}}", name, format_bytes(bytes), bytes_width);
  };
  entry("at the start", process.start_bytes), out += "\n";
  entry("peak", process.peak_bytes), out += "\n";
  entry("explained by the table", process.explained_bytes);
  out += fmt::format("  {:.1f}% of the growth of {}\n", 100 * process.explained_share(), format_bytes(process.grown_bytes()));
  for (const NamedBytes& part : process.remainder) entry(part.name, part.bytes), out += "\n";
  entry("unexplained", process.unexplained_bytes()), out += "\n";
  return out;
}

/// The enumerator whose name is `name`. DataError when there is none.
template <class Enum>
Enum named_value(const std::string& name, int count, const char* kind) {
  for (int i = 0; i < count; i++) {
    if (name == name_of(static_cast<Enum>(i))) return static_cast<Enum>(i);
  }
  throw DataError({fmt::format("unknown memory {} \"{}\"", kind, name), {}, {}, {}});
}

}  // namespace

double ProcessMemory::explained_share() const {
  return grown_bytes() == 0 ? 0 : static_cast<double>(explained_bytes) / static_cast<double>(grown_bytes());
}

int64_t ProcessMemory::unexplained_bytes() const {
  int64_t out = grown_bytes() - explained_bytes;
  for (const NamedBytes& part : remainder) out -= part.bytes;
  return out;
}

void MemoryTable::add(const MemoryRow& row) {
  const auto at = std::lower_bound(rows_.begin(), rows_.end(), row, [](const auto& a, const auto& b) { return place(a) < place(b); });
  if (at == rows_.end() || place(*at) != place(row)) {
    rows_.insert(at, row);
    return;
  }
  for (const auto& [column, key, title] : columns) {
    if (!(row.*column)) continue;
    if ((*at).*column && (*at).*column != row.*column) {
      throw InternalError(fmt::format("two values for {} of {} on rank {}: {} and {}", key, name_of(row.category), row.rank,
                                      *((*at).*column), *(row.*column)));
    }
    (*at).*column = row.*column;
  }
}

void MemoryTable::merge(const MemoryTable& other) {
  for (const MemoryRow& row : other.rows_) add(row);
  for (const ProcessMemory& process : other.processes_) add(process);
}

const MemoryRow* MemoryTable::find(int rank, MemorySpace space, MemoryCategory category) const {
  const auto at =
      std::find_if(rows_.begin(), rows_.end(), [&](const MemoryRow& row) { return place(row) == std::tuple(rank, space, category); });
  return at == rows_.end() ? nullptr : &*at;
}

std::vector<int> MemoryTable::ranks() const {
  std::vector<int> out;
  for (const MemoryRow& row : rows_) {
    if (out.empty() || out.back() != row.rank) out.push_back(row.rank);
  }
  return out;
}

std::optional<int64_t> MemoryTable::total(int rank, MemorySpace space, MemoryColumn column) const {
  return total(std::vector<int>{rank}, space, column);
}

std::optional<int64_t> MemoryTable::total(const std::vector<int>& ranks, MemorySpace space, MemoryColumn column) const {
  std::optional<int64_t> sum;
  for (const MemoryRow& row : rows_) {
    const bool counts = row.space == space && std::find(ranks.begin(), ranks.end(), row.rank) != ranks.end();
    if (counts && row.*column) sum = sum.value_or(0) + *(row.*column);
  }
  return sum;
}

std::string MemoryTable::text() const {
  std::vector<std::pair<std::vector<MemoryRow>, std::vector<int>>> alike;  // rows -> the ranks that have them
  for (int rank : ranks()) {
    auto rows = rows_of(*this, rank);
    const auto at = std::find_if(alike.begin(), alike.end(), [&](const auto& group) { return group.first == rows; });
    if (at == alike.end()) {
      alike.emplace_back(std::move(rows), std::vector<int>{rank});
    } else {
      at->second.push_back(rank);
    }
  }
  std::string out;
  const auto paragraph = [&](const std::string& text) { out += (out.empty() ? "" : "\n") + text; };
  for (const auto& [rows, ranks] : alike) {
    for (int space = 0; space < memory_spaces; space++) {
      const bool used = std::any_of(rows.begin(), rows.end(), [&](const MemoryRow& row) { return static_cast<int>(row.space) == space; });
      if (used) paragraph(block_text(*this, ranks, static_cast<MemorySpace>(space)));
    }
  }
  for (const ProcessMemory& process : processes_) paragraph(process_text(process));
  return out;
}

void to_json(Json& json, const MemoryRow& row) {
  json = {{"rank", row.rank}, {"space", name_of(row.space)}, {"category", name_of(row.category)}};
  for (const auto& [column, key, title] : columns) json[key] = row.*column ? Json(*(row.*column)) : Json();
}

void from_json(const Json& json, MemoryRow& row) {
  row.rank = json.at("rank").get<int>();
  row.space = named_value<MemorySpace>(json.at("space").get<std::string>(), memory_spaces, "space");
  row.category = named_value<MemoryCategory>(json.at("category").get<std::string>(), memory_categories, "category");
  for (const auto& [column, key, title] : columns) {
    const Json& value = json.at(key);
    row.*column = value.is_null() ? std::nullopt : std::optional(value.get<int64_t>());
  }
}

void to_json(Json& json, const ProcessMemory& process) {
  Json remainder = Json::object();
  for (const NamedBytes& part : process.remainder) remainder[part.name] = part.bytes;
  json = {{"source", process.source},
          {"ranks", process.ranks},
          {"start_bytes", process.start_bytes},
          {"peak_bytes", process.peak_bytes},
          {"explained_bytes", process.explained_bytes},
          {"explained_share", process.explained_share()},
          {"remainder", remainder},
          {"unexplained_bytes", process.unexplained_bytes()}};
}

void from_json(const Json& json, ProcessMemory& process) {
  process.source = json.at("source").get<std::string>();
  process.ranks = json.at("ranks").get<std::vector<int>>();
  process.start_bytes = json.at("start_bytes").get<int64_t>();
  process.peak_bytes = json.at("peak_bytes").get<int64_t>();
  process.explained_bytes = json.at("explained_bytes").get<int64_t>();
  process.remainder.clear();
  for (const auto& [name, bytes] : json.at("remainder").items()) process.remainder.push_back({name, bytes.template get<int64_t>()});
}

std::string rank_list(const std::vector<int>& ranks) {
  std::string out;
  for (size_t first = 0; first < ranks.size();) {
    size_t last = first;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) last++;
    if (!out.empty()) out += ", ";
    out += std::to_string(ranks[first]);
    if (last > first) out += fmt::format("-{}", ranks[last]);
    first = last + 1;
  }
  return out;
}

}  // namespace tessera
