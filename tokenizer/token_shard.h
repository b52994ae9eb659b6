#pragma once
#include <string>

#include "tokenizer/token_file.h"

namespace tessera {

/// A file of uint16 tokens that does not say where documents end, in one of two formats:
///     llm.c      256 int32: magic 20240520 | version 1 | number of tokens | not used; then the tokens (GPT-2's, dev/data/data_common.py)
///     nanoGPT    nothing but the tokens (data/*/prepare.py)
/// A header of llm.c is known by its magic, or by 240 zeros where the format uses nothing; its other formats, and files that stop too early
/// or go on too long, are refused.
class TokenShard final : public TokenFile {
 public:
  /// Throws DataError naming the file, the position and what is legal.
  TokenShard(const std::string& path, int64_t vocabulary);

  int64_t tokens() const override { return tokens_.count; }
  int64_t documents() const override { return 1; }
  int64_t document_begin(int64_t document) const override { return document == 0 ? 0 : tokens(); }
  void read(int64_t position, std::span<int32_t> out) const override { tokens_.read(position, out); }

 private:
  void check_header() const;

  MappedFile file_;
  MappedTokens tokens_;
};

}  // namespace tessera
