#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "tokenizer/token_file.h"

namespace tessera {

/// Token files in the format of Megatron-LM (megatron/core/datasets/indexed_dataset.py), readable there as they are. Little endian, packed:
///     PREFIX.bin   the tokens, uint16 for vocabularies below 65500, else int32
///     PREFIX.idx   magic "MMIDIDX\0\0" | uint64 version 1 | uint8 dtype (8 uint16, 4 int32) | uint64 sequences | uint64 document indices
///                  | int32 length of each sequence, in tokens | int64 start of each sequence, in bytes of .bin
///                  | int64 document indices: the first sequence of each document, and at the end the number of sequences
/// A document is one sequence here, or several when it is longer than 2^31 - 1 tokens.

/// Writes both files as a stream; they appear at finish(), .idx last, so a full disk or a kill leaves no half data set.
class IndexedFileWriter {
 public:
  IndexedFileWriter(const std::string& prefix, int64_t vocabulary);

  /// Appends to the current document. InternalError on an id outside [0, vocabulary).
  void add_tokens(std::span<const int32_t> tokens);
  /// A document without tokens is dropped.
  void end_document();
  /// DataError when no document was written or the disk is full.
  void finish();

 private:
  void end_sequence();

  std::string prefix_;
  int64_t vocabulary_;
  bool narrow_;
  AtomicFile bin_, idx_;
  std::vector<int32_t> lengths_;
  std::vector<int64_t> document_indices_ = {0};
  int64_t sequence_tokens_ = 0;
  std::vector<uint16_t> narrow_tokens_;
};

/// The reader: holds nothing on the heap.
class IndexedFile final : public TokenFile {
 public:
  /// Checks everything before the first token is used: magic, version, dtype, every size, every index, and every token id against
  /// `vocabulary` (one pass over .bin). Throws DataError naming the file, the position and what is legal.
  IndexedFile(const std::string& prefix, int64_t vocabulary);

  int64_t tokens() const override { return tokens_.count; }
  int64_t documents() const override { return documents_; }
  int64_t document_begin(int64_t document) const override;
  void read(int64_t position, std::span<int32_t> out) const override { tokens_.read(position, out); }

 private:
  void check_index();
  int64_t sequence_begin(int64_t sequence) const;

  MappedFile idx_, bin_;
  MappedTokens tokens_;
  int64_t sequences_ = 0, documents_ = 0;
};

}  // namespace tessera
