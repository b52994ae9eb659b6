#include "tokenizer/json_lines.h"

#include <cerrno>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

bool is_json_lines(const TextFile& file) { return file.path.ends_with(".jsonl"); }

JsonLinesReader::JsonLinesReader(const TextFile& file, std::string key, int64_t begin_bytes)
    : path_(file.path), key_(std::move(key)), file_(file.path, std::ios::binary), next_begin_bytes_(begin_bytes) {
  if (!file_) throw DataError({fmt::format("cannot read {}: {}", path_, std::strerror(errno)), path_, "a file that can be read", {}});
  if (begin_bytes == 0) return;
  file_.seekg(begin_bytes - 1);  // its newline, if the byte before is one, ends the line to be left out
  std::getline(file_, line_);
  next_begin_bytes_ += static_cast<int64_t>(line_.size());
}

bool JsonLinesReader::next(std::string& text) {
  while (std::getline(file_, line_)) {
    begin_bytes_ = std::exchange(next_begin_bytes_, next_begin_bytes_ + static_cast<int64_t>(line_.size()) + 1);
    if (line_.find_first_not_of(" \t\r") == std::string::npos) continue;
    text = document();
    if (!text.empty()) return true;
  }
  if (file_.bad()) throw DataError({fmt::format("cannot read {}: {}", path_, std::strerror(errno)), path_, "a file that can be read", {}});
  return false;
}

std::string JsonLinesReader::document() const {
  const auto object = nlohmann::json::parse(valid_utf8(line_), nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) refuse("not JSON", "a truncated download ends within a line");
  if (!object.is_object()) refuse(fmt::format("{} in place of an object", object.type_name()));
  const auto field = object.find(key_);
  if (field == object.end()) {
    std::string keys;
    for (const auto& [key, value] : object.items()) {
      if (value.is_string()) keys += (keys.empty() ? "" : ", ") + key;
    }
    refuse(fmt::format("no field `{}`", key_), "`--text-key` names another field; strings here: " + (keys.empty() ? "none" : keys));
  }
  if (!field->is_string()) refuse(fmt::format("{} in place of a string under `{}`", field->type_name(), key_));
  return field->get<std::string>();
}

void JsonLinesReader::refuse(const std::string& what, const std::string& hint) const {
  // Counted only now: a reader that starts within a file does not know its line.
  std::ifstream file(path_, std::ios::binary);
  int64_t line = 1, bytes = begin_bytes_;
  for (std::istreambuf_iterator<char> it(file), end; it != end && bytes > 0; ++it, bytes--) line += *it == '\n';
  const std::string where = fmt::format("{}, line {}", path_, line);
  throw DataError({where + ": " + what, where, fmt::format("a JSON object with a string under \"{}\" on each line", key_), hint});
}

}  // namespace tessera
