#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct TextFile {
  std::string path;
  int64_t bytes = 0;
};

struct TextFiles {
  std::vector<TextFile> files;
  int64_t bytes = 0;
  int64_t skipped_files = 0;      // found in folders: binary, empty, unreadable, or met before under another name
  std::string text_key = "text";  // the field of JSON Lines that holds the text (tokenizer/json_lines.h)
};

/// The text files among `paths`, in the order given, folders recursively and sorted by name. Names that start with a dot are skipped in
/// folders. Links are followed, no file or folder twice. Binary is what has a NUL in its first 64 KiB.
/// Throws DataError for a path that is missing, for a named file that is empty, binary or unreadable, and when no text is found at all.
TextFiles gather_text_files(std::span<const std::string> paths);

/// `text` with U+FFFD in the place of every byte that belongs to no well-formed UTF-8 character.
std::string valid_utf8(std::string_view text);

/// Reads one file in pieces of at most `piece_bytes` (8 or more; valid_utf8() may lengthen a piece), cut behind a newline where there is one,
/// else between characters.
class TextReader {
 public:
  /// Throws DataError when the file cannot be read (any more).
  TextReader(const TextFile& file, int64_t piece_bytes);
  /// The next piece as valid UTF-8; false at the end of the file.
  bool next(std::string& text);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_, rest_;
  size_t piece_bytes_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// About `max_bytes` of the files' text, whole lines where possible: all of it when it is less, else windows at equal distances over the
/// concatenated files, so that each file is represented by its share and only what is taken is read. Of JSON Lines a window takes its bytes
/// of text from the first line on that begins in or behind it and that no window took before.
std::string sample_text(const TextFiles& texts, int64_t max_bytes);

}  // namespace tessera
