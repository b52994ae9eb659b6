#include "tokenizer/token_file.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "tokenizer/indexed_file.h"
#include "tokenizer/token_shard.h"

namespace tessera {

int64_t TokenFile::document_of(int64_t position) const {
  int64_t document = 0, after = documents();
  while (after - document > 1) {
    const int64_t middle = (document + after) / 2;
    (document_begin(middle) <= position ? document : after) = middle;
  }
  return document;
}

void TokenFile::check_vocabulary(const MappedFile& file, const MappedTokens& tokens, int64_t vocabulary) const {
  const int64_t position = tokens.first_beyond(vocabulary);
  if (position == tokens.count) return;
  file.refuse(fmt::format("token id {} at position {} (document {}) is beyond the vocabulary", tokens.at(position), position,
                          document_of(position)),
              fmt::format("0 to {}", vocabulary - 1), "were the data encoded with another tokenizer?");
}

namespace {

/// Several files as one row.
class JoinedFiles : public TokenFile {
 public:
  JoinedFiles(std::string name, std::vector<std::shared_ptr<const TokenFile>> files)
      : TokenFile(std::move(name)), files_(std::move(files)) {
    for (const auto& file : files_) {
      token_begins_.push_back(tokens() + file->tokens());
      document_begins_.push_back(documents() + file->documents());
    }
  }
  int64_t tokens() const override { return token_begins_.back(); }
  int64_t documents() const override { return document_begins_.back(); }
  int64_t document_begin(int64_t document) const override {
    invariant(document >= 0 && document <= documents(), "no such document");
    if (document == documents()) return tokens();
    const size_t f = file_of(document_begins_, document);
    return token_begins_[f] + files_[f]->document_begin(document - document_begins_[f]);
  }
  void read(int64_t position, std::span<int32_t> out) const override {
    invariant(position >= 0 && position <= tokens() - static_cast<int64_t>(out.size()), "tokens are read beyond the end of the files");
    while (!out.empty()) {
      const size_t f = file_of(token_begins_, position);
      const auto part = out.first(std::min(out.size(), static_cast<size_t>(token_begins_[f + 1] - position)));
      files_[f]->read(position - token_begins_[f], part);
      position += static_cast<int64_t>(part.size());
      out = out.subspan(part.size());
    }
  }

 private:
  static size_t file_of(const std::vector<int64_t>& begins, int64_t position) {
    return static_cast<size_t>(std::upper_bound(begins.begin(), begins.end(), position) - begins.begin()) - 1;
  }

  std::vector<std::shared_ptr<const TokenFile>> files_;
  std::vector<int64_t> token_begins_ = {0}, document_begins_ = {0};  // of each file; at the end the sum
};

bool exists(const std::string& path) {
  std::error_code unreadable;
  return std::filesystem::exists(path, unreadable);
}

std::shared_ptr<const TokenFile> open_file(const std::string& path, int64_t vocabulary) {
  if (!path.ends_with(".bin")) return std::make_shared<const IndexedFile>(path, vocabulary);
  const std::string prefix = path.substr(0, path.size() - 4);
  if (exists(prefix + ".idx")) return std::make_shared<const IndexedFile>(prefix, vocabulary);
  return std::make_shared<const TokenShard>(path, vocabulary);
}

std::vector<std::string> matches_of(const std::string& pattern) {
  constexpr const char* legal = "a pattern that ends in .bin and matches token files";
  if (!pattern.ends_with(".bin")) throw DataError({pattern + " does not end in .bin", pattern, legal, {}});
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &found);
  const std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + (status == 0 ? found.gl_pathc : 0));
  ::globfree(&found);
  if (paths.empty()) throw DataError({"no file matches " + pattern, pattern, legal, {}});
  return paths;
}

}  // namespace

std::shared_ptr<const TokenFile> open_tokens(const std::string& path, int64_t vocabulary) {
  const bool literal = path.find_first_of("*?[") == std::string::npos || exists(path) || exists(path + ".idx");
  if (literal) return open_file(path, vocabulary);
  std::vector<std::shared_ptr<const TokenFile>> files;
  for (const std::string& match : matches_of(path)) files.push_back(open_file(match, vocabulary));
  return std::make_shared<const JoinedFiles>(path, std::move(files));
}

}  // namespace tessera
