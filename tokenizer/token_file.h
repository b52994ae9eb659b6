#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "tokenizer/mapped_file.h"

namespace tessera {

/// What samples are cut from: one row of tokens, document behind document, whatever the files behind it. Memory-mapped, thread-safe.
/// Every implementation checks everything when it is opened, every token id included; reading then cannot fail.
class TokenFile {
 public:
  explicit TokenFile(std::string name) : name_(std::move(name)) {}
  virtual ~TokenFile() = default;
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  /// As the configuration gives it.
  const std::string& name() const { return name_; }
  virtual int64_t tokens() const = 0;
  /// At least one. A file that does not say where its documents end counts as one.
  virtual int64_t documents() const = 0;
  /// Position of the document's first token; tokens() for document == documents().
  virtual int64_t document_begin(int64_t document) const = 0;
  /// Tokens [position, position + out.size()); InternalError outside [0, tokens()).
  virtual void read(int64_t position, std::span<int32_t> out) const = 0;

  /// The last document that begins at or before `position`.
  int64_t document_of(int64_t position) const;

 protected:
  /// Throws DataError naming the first id outside [0, vocabulary) and where it stands. `tokens`: all of this file's, in `file`.
  void check_vocabulary(const MappedFile& file, const MappedTokens& tokens, int64_t vocabulary) const;

 private:
  std::string name_;
};

/// Opens a token file by its path:
///     PREFIX                     Megatron's PREFIX.bin with PREFIX.idx (tokenizer/indexed_file.h); PREFIX.bin, beside a PREFIX.idx, means the same
///     NAME.bin                   a shard of llm.c, or nanoGPT's raw uint16 tokens (tokenizer/token_shard.h)
///     a pattern, "train_*.bin"   all that match, sorted by name, as one row
/// Throws DataError naming the file, the place and what is legal: nothing there, foreign, truncated, or ids outside [0, vocabulary).
std::shared_ptr<const TokenFile> open_tokens(const std::string& path, int64_t vocabulary);

}  // namespace tessera
