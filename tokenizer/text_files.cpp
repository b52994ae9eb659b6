#include "tokenizer/text_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "tokenizer/json_lines.h"
#include "tokenizer/utf8.h"

namespace tessera {

namespace fs = std::filesystem;

constexpr int64_t binary_probe_bytes = 64 << 10;
constexpr const char* legal_inputs = "text files (UTF-8, not empty), or folders that hold some";

namespace {

/// Up to `bytes` of the file from `begin`; nothing when it cannot be read.
std::optional<std::string> read_range(const std::string& path, int64_t begin, int64_t bytes) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file || ::fseeko(file.get(), begin, SEEK_SET) != 0) return std::nullopt;
  std::string out(static_cast<size_t>(bytes), '\0');
  out.resize(std::fread(out.data(), 1, out.size(), file.get()));
  if (std::ferror(file.get())) return std::nullopt;
  return out;
}

class Gatherer {
 public:
  void add_named(const std::string& path) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0) refuse(path, std::string("cannot read ") + path + ": " + std::strerror(errno));
    if (!seen_.insert({status.st_dev, status.st_ino}).second) return;
    if (S_ISDIR(status.st_mode)) return add_folder(path);
    if (!S_ISREG(status.st_mode)) refuse(path, path + " is neither a file nor a folder");
    if (const char* reason = add_file(path, status.st_size)) refuse(path, path + " " + reason);
  }

  TextFiles result;

 private:
  [[noreturn]] static void refuse(const std::string& path, const std::string& what) { throw DataError({what, path, legal_inputs, {}}); }

  void add_folder(const std::string& path) {
    std::error_code error;
    std::vector<std::string> names;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
      names.push_back(it->path().filename().string());
    if (error) {
      result.skipped_files++;
      return;
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      if (name.starts_with('.')) continue;
      const std::string inner = (fs::path(path) / name).string();
      struct stat status;
      const bool known = ::stat(inner.c_str(), &status) != 0 || !seen_.insert({status.st_dev, status.st_ino}).second;  // or a dangling link
      if (!known && S_ISDIR(status.st_mode)) {
        add_folder(inner);
      } else if (known || !S_ISREG(status.st_mode) || add_file(inner, status.st_size)) {
        result.skipped_files++;
      }
    }
  }

  /// Null when added, else the reason why not.
  const char* add_file(const std::string& path, int64_t bytes) {
    if (bytes == 0) return "is empty";
    const auto head = read_range(path, 0, std::min(bytes, binary_probe_bytes));
    if (!head) return "cannot be read";
    if (head->find('\0') != std::string::npos) return "is binary: it holds NUL bytes";
    result.files.push_back({path, bytes});
    result.bytes += bytes;
    return nullptr;
  }

  std::set<std::pair<dev_t, ino_t>> seen_;
};

/// Without the lines that a window cut in two, at the ends that `cut_front` and `cut_back` name. A window within one line stays as it is.
std::string_view whole_lines(std::string_view text, bool cut_front, bool cut_back) {
  const size_t first = text.find('\n'), last = text.rfind('\n');
  if (first == std::string_view::npos || (cut_front && cut_back && first == last)) return text;
  if (cut_back) text = text.substr(0, last + 1);
  if (cut_front) text = text.substr(first + 1);
  return text;
}

/// Up to `max_bytes` of the documents of JSON Lines from `begin_bytes` on, which moves behind the last one read.
std::string sample_documents(const TextFile& file, const std::string& key, int64_t& begin_bytes, int64_t max_bytes) {
  JsonLinesReader reader(file, key, begin_bytes);
  std::string out;
  for (std::string document; static_cast<int64_t>(out.size()) < max_bytes && reader.next(document);) {
    out += document;
    if (!out.ends_with('\n')) out += '\n';
  }
  begin_bytes = reader.position_bytes();
  if (static_cast<int64_t>(out.size()) <= max_bytes) return out;
  out.resize(utf8_boundary(out, static_cast<size_t>(max_bytes)));
  return std::string(whole_lines(out, false, true));
}

}  // namespace

TextFiles gather_text_files(std::span<const std::string> paths) {
  Gatherer gatherer;
  for (const std::string& path : paths) gatherer.add_named(path);
  if (gatherer.result.files.empty()) {
    std::string where;
    for (const std::string& path : paths) where += (where.empty() ? "" : ", ") + path;
    throw DataError({paths.empty() ? "no input files" : "no text found", where, legal_inputs, {}});
  }
  return std::move(gatherer.result);
}

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const int length = utf8_length(text.substr(i, 4));
    out += length ? text.substr(i, length) : std::string_view("\uFFFD");
    i += std::max(length, 1);
  }
  return out;
}

TextReader::TextReader(const TextFile& file, int64_t piece_bytes)
    : path_(file.path), piece_bytes_(static_cast<size_t>(piece_bytes)), file_(std::fopen(file.path.c_str(), "rb")) {
  invariant(piece_bytes >= 8, "a piece holds at least two characters");
  if (!file_) throw DataError({"cannot read " + path_ + ": " + std::strerror(errno), path_, legal_inputs, {}});
}

bool TextReader::next(std::string& text) {
  const size_t kept = rest_.size();
  rest_.resize(piece_bytes_);
  rest_.resize(kept + std::fread(rest_.data() + kept, 1, piece_bytes_ - kept, file_.get()));
  if (std::ferror(file_.get())) throw DataError({"cannot read " + path_ + ": " + std::strerror(errno), path_, legal_inputs, {}});
  size_t cut = rest_.size();
  if (cut == piece_bytes_ && !std::feof(file_.get())) {
    const size_t newline = rest_.rfind('\n');
    cut = newline != std::string::npos ? newline + 1 : utf8_boundary(rest_, cut - 1);
  }
  text = valid_utf8(std::string_view(rest_).substr(0, cut));
  rest_.erase(0, cut);
  return !text.empty();
}

std::string sample_text(const TextFiles& texts, int64_t max_bytes) {
  invariant(max_bytes >= 1, "a sample has at least one byte");
  constexpr int64_t window_bytes = 64 << 10;
  const int64_t windows = texts.bytes <= max_bytes ? 1 : std::max<int64_t>(1, max_bytes / window_bytes);
  const int64_t bytes = std::min(texts.bytes, max_bytes) / windows;

  std::string out;
  size_t file = 0;
  int64_t file_begin = 0;  // of files[file], in the concatenation
  size_t documents_file = 0;
  int64_t documents_end = 0;  // how far into files[documents_file], JSON Lines, windows have come
  for (int64_t w = 0; w < windows; w++) {
    const int64_t begin = static_cast<int64_t>(static_cast<double>(texts.bytes - bytes) * w / std::max<int64_t>(1, windows - 1));
    while (file_begin + texts.files[file].bytes <= begin) file_begin += texts.files[file++].bytes;
    // A window may span many small files; the next window may start in the last of them.
    int64_t base = file_begin;
    for (size_t f = file; f < texts.files.size() && base < begin + bytes; base += texts.files[f++].bytes) {
      const TextFile& source = texts.files[f];
      const int64_t from = std::max<int64_t>(0, begin - base), to = std::min(source.bytes, begin + bytes - base);
      if (is_json_lines(source)) {
        int64_t next = documents_file == f ? std::max(documents_end, from) : from;
        out += sample_documents(source, texts.text_key, next, to - from);
        documents_file = f, documents_end = next;
        continue;
      }
      const auto text = read_range(source.path, from, to - from);
      if (!text) throw DataError({"cannot read " + source.path, source.path, legal_inputs, {}});
      out += valid_utf8(whole_lines(*text, from > 0, to < source.bytes));
      if (!out.ends_with('\n')) out += '\n';
    }
  }
  return out;
}

}  // namespace tessera
