#pragma once
#include <cstdint>
#include <fstream>
#include <string>

#include "tokenizer/text_files.h"

namespace tessera {

/// JSON Lines: files named NAME.jsonl, with a JSON object on each line and a document in one of its fields.
bool is_json_lines(const TextFile& file);

/// Reads the documents of such a file one by one; a line is held as a whole.
class JsonLinesReader {
 public:
  /// From the first line that begins at or behind `begin_bytes`. Throws DataError when the file cannot be read (any more).
  JsonLinesReader(const TextFile& file, std::string key, int64_t begin_bytes = 0);

  /// The next document as valid UTF-8; false at the end of the file. Blank lines and documents without text are left out.
  /// Throws DataError naming file and line: not JSON, no object, no string under the key.
  bool next(std::string& text);
  /// Where the line behind the last document begins.
  int64_t position_bytes() const { return next_begin_bytes_; }

 private:
  std::string document() const;
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = {}) const;

  std::string path_, key_, line_;
  std::ifstream file_;
  int64_t begin_bytes_ = 0, next_begin_bytes_;  // of `line_`, and of the one behind it
};

}  // namespace tessera
