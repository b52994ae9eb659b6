#include "tokenizer/indexed_file.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

namespace {

using namespace std::string_view_literals;
constexpr std::string_view magic = "MMIDIDX\0\0"sv;
constexpr uint64_t version = 1;
constexpr uint8_t code_int32 = 4, code_uint16 = 8;
constexpr int64_t narrow_vocabulary = 65500;  // Megatron's bound, not 65536
constexpr int64_t header_bytes = 9 + 8 + 1 + 8 + 8;
constexpr int64_t max_sequence_tokens = std::numeric_limits<int32_t>::max();
constexpr const char* legal_files = "PREFIX.idx with its PREFIX.bin, as `tessera tokenize encode` or Megatron-LM writes them";

template <class T>
std::span<const std::byte> bytes_of_value(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace

IndexedFileWriter::IndexedFileWriter(const std::string& prefix, int64_t vocabulary)
    : prefix_(prefix), vocabulary_(vocabulary), narrow_(vocabulary < narrow_vocabulary), bin_(prefix + ".bin"), idx_(prefix + ".idx") {
  invariant(vocabulary >= 1 && vocabulary <= int64_t{1} << 31, "token ids are 32-bit integers");
}

void IndexedFileWriter::add_tokens(std::span<const int32_t> tokens) {
  for (int32_t token : tokens) invariant(token >= 0 && token < vocabulary_, "a token to be written is beyond the vocabulary");
  while (!tokens.empty()) {
    if (sequence_tokens_ == max_sequence_tokens) end_sequence();
    const auto part = tokens.first(std::min(tokens.size(), static_cast<size_t>(max_sequence_tokens - sequence_tokens_)));
    if (narrow_) {
      narrow_tokens_.assign(part.begin(), part.end());
      bin_.write(std::as_bytes(std::span(narrow_tokens_)));
    } else {
      bin_.write(std::as_bytes(part));
    }
    sequence_tokens_ += static_cast<int64_t>(part.size());
    tokens = tokens.subspan(part.size());
  }
}

void IndexedFileWriter::end_sequence() {
  if (sequence_tokens_ == 0) return;
  lengths_.push_back(static_cast<int32_t>(sequence_tokens_));
  sequence_tokens_ = 0;
}

void IndexedFileWriter::end_document() {
  end_sequence();
  const auto sequences = static_cast<int64_t>(lengths_.size());
  if (sequences != document_indices_.back()) document_indices_.push_back(sequences);
}

void IndexedFileWriter::finish() {
  end_document();
  if (lengths_.empty()) throw DataError({"no tokens to write to " + prefix_, prefix_, "at least one document with a token", {}});
  idx_.write(magic);
  idx_.write(bytes_of_value(version));
  idx_.write(bytes_of_value(narrow_ ? code_uint16 : code_int32));
  idx_.write(bytes_of_value(static_cast<uint64_t>(lengths_.size())));
  idx_.write(bytes_of_value(static_cast<uint64_t>(document_indices_.size())));
  idx_.write(std::as_bytes(std::span(lengths_)));
  int64_t pointer = 0;
  for (int32_t length : lengths_) {
    idx_.write(bytes_of_value(pointer));
    pointer += static_cast<int64_t>(length) * (narrow_ ? 2 : 4);
  }
  idx_.write(std::as_bytes(std::span(document_indices_)));
  bin_.finish();
  idx_.finish();
  ::unlink(idx_.path().c_str());  // an old index must never stand beside new tokens, even for a moment
  bin_.publish();
  idx_.publish();
}

IndexedFile::IndexedFile(const std::string& prefix, int64_t vocabulary) : TokenFile(prefix), idx_(prefix + ".idx"), bin_(prefix + ".bin") {
  check_index();
  check_vocabulary(bin_, tokens_, vocabulary);
}

void IndexedFile::check_index() {
  if (std::memcmp(idx_.data(), magic.data(), std::min<size_t>(magic.size(), idx_.bytes())) != 0)
    idx_.refuse("not an index of token files", legal_files);
  if (idx_.bytes() < header_bytes)
    idx_.refuse(fmt::format("truncated: {} bytes, its header alone has {}", idx_.bytes(), header_bytes), legal_files);
  constexpr auto fields = static_cast<int64_t>(magic.size());
  if (const auto found = idx_.load<uint64_t>(fields); found != version) idx_.refuse(fmt::format("format version {}", found), "version 1");
  const auto code = idx_.load<uint8_t>(fields + 8);
  if (code != code_uint16 && code != code_int32) idx_.refuse(fmt::format("dtype code {}", code), "8 (uint16) or 4 (int32)");
  const auto sequences = idx_.load<uint64_t>(fields + 9), indices = idx_.load<uint64_t>(fields + 17);
  // Either count alone already says more than the file can hold: no overflow below.
  const auto bytes = static_cast<uint64_t>(idx_.bytes());
  if (sequences > bytes || indices > bytes || header_bytes + 12 * sequences + 8 * indices != bytes) {
    idx_.refuse(fmt::format("{} bytes do not match {} sequences and {} document indices: truncated or foreign", bytes, sequences, indices),
                legal_files);
  }
  if (sequences == 0 || indices < 2) idx_.refuse("no documents", "at least one document");
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(indices) - 1;

  tokens_ = {.data = bin_.data(), .count = 0, .narrow = code == code_uint16};
  const int64_t token_bytes = tokens_.narrow ? 2 : 4;
  for (int64_t s = 0; s < sequences_; s++) {
    const auto length = idx_.load<int32_t>(header_bytes + 4 * s);
    const auto pointer = idx_.load<int64_t>(header_bytes + 4 * sequences_ + 8 * s);
    if (length < 0) idx_.refuse(fmt::format("sequence {} has {} tokens", s, length), "0 or more tokens");
    if (pointer != tokens() * token_bytes) {
      idx_.refuse(fmt::format("sequence {} starts at byte {}", s, pointer),
                  fmt::format("byte {}, where the one before it ends", tokens() * token_bytes));
    }
    tokens_.count += length;
  }
  if (bin_.bytes() != tokens() * token_bytes) {
    bin_.refuse(fmt::format("{} bytes: truncated, or of another index", bin_.bytes()),
                fmt::format("{} bytes for {} tokens", tokens() * token_bytes, tokens()));
  }
  for (int64_t d = 0, last = 0; d <= documents_; d++) {
    const auto index = idx_.load<int64_t>(header_bytes + 12 * sequences_ + 8 * d);
    const bool fits = index >= last && index <= sequences_ && (d > 0 || index == 0) && (d < documents_ || index == sequences_);
    if (!fits) idx_.refuse(fmt::format("document index {} is {}", d, index), fmt::format("rising from 0 to {} sequences", sequences_));
    last = index;
  }
}

int64_t IndexedFile::sequence_begin(int64_t sequence) const {
  if (sequence == sequences_) return tokens();
  return idx_.load<int64_t>(header_bytes + 4 * sequences_ + 8 * sequence) / (tokens_.narrow ? 2 : 4);
}

int64_t IndexedFile::document_begin(int64_t document) const {
  invariant(document >= 0 && document <= documents_, "no such document");
  return sequence_begin(idx_.load<int64_t>(header_bytes + 12 * sequences_ + 8 * document));
}

}  // namespace tessera
