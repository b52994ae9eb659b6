#include "tokenizer/indexed_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

static_assert(std::endian::native == std::endian::little, "the format is little endian, and written as it lies in memory");

namespace {

using namespace std::string_view_literals;
constexpr std::string_view magic = "MMIDIDX\0\0"sv;
constexpr uint64_t version = 1;
constexpr uint8_t code_int32 = 4, code_uint16 = 8;
constexpr int64_t narrow_vocabulary = 65500;  // Megatron's bound, not 65536
constexpr int64_t header_bytes = 9 + 8 + 1 + 8 + 8;
constexpr int64_t max_sequence_tokens = std::numeric_limits<int32_t>::max();
constexpr const char* legal_files = "PREFIX.idx with its PREFIX.bin, as `tessera tokenize encode` or Megatron-LM writes them";

/// Fields lie unaligned in the file.
template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
std::span<const std::byte> bytes_of_value(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

[[noreturn]] void refuse(const MappedFile& file, const std::string& what, const std::string& legal = legal_files) {
  throw DataError({file.path() + ": " + what, file.path(), legal, {}});
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

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || ::fstat(file, &status) != 0) {
    const int reason = errno;
    if (file >= 0) ::close(file);
    throw DataError(
        {fmt::format("cannot read {}: {}", path, std::strerror(reason)), path, legal_files, "data paths are given without .bin and .idx"});
  }
  bytes_ = status.st_size;
  void* data =
      bytes_ > 0 && S_ISREG(status.st_mode) ? ::mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  ::close(file);
  if (data == MAP_FAILED) throw DataError({path + (bytes_ == 0 ? " is empty" : " cannot be mapped"), path, legal_files, {}});
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(bytes_));
}

IndexedFile::IndexedFile(const std::string& prefix, int64_t vocabulary) : prefix_(prefix), idx_(prefix + ".idx"), bin_(prefix + ".bin") {
  check_index();
  check_tokens(vocabulary);
}

void IndexedFile::check_index() {
  if (std::memcmp(idx_.data(), magic.data(), std::min<size_t>(magic.size(), idx_.bytes())) != 0)
    refuse(idx_, "not an index of token files");
  if (idx_.bytes() < header_bytes) refuse(idx_, fmt::format("truncated: {} bytes, its header alone has {}", idx_.bytes(), header_bytes));
  const std::byte* field = idx_.data() + magic.size();
  if (const auto found = load<uint64_t>(field); found != version) refuse(idx_, fmt::format("format version {}", found), "version 1");
  const auto code = load<uint8_t>(field + 8);
  if (code != code_uint16 && code != code_int32) refuse(idx_, fmt::format("dtype code {}", code), "8 (uint16) or 4 (int32)");
  narrow_ = code == code_uint16;
  const auto sequences = load<uint64_t>(field + 9), indices = load<uint64_t>(field + 17);
  // Either count alone already says more than the file can hold: no overflow below.
  const auto bytes = static_cast<uint64_t>(idx_.bytes());
  if (sequences > bytes || indices > bytes || header_bytes + 12 * sequences + 8 * indices != bytes) {
    refuse(idx_,
           fmt::format("{} bytes do not match {} sequences and {} document indices: truncated or foreign", bytes, sequences, indices));
  }
  if (sequences == 0 || indices < 2) refuse(idx_, "no documents", "at least one document");
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(indices) - 1;

  const int64_t token_bytes = narrow_ ? 2 : 4;
  for (int64_t s = 0; s < sequences_; s++) {
    const auto length = load<int32_t>(idx_.data() + header_bytes + 4 * s);
    const auto pointer = load<int64_t>(idx_.data() + header_bytes + 4 * sequences_ + 8 * s);
    if (length < 0) refuse(idx_, fmt::format("sequence {} has {} tokens", s, length), "0 or more tokens");
    if (pointer != tokens_ * token_bytes) {
      refuse(idx_, fmt::format("sequence {} starts at byte {}", s, pointer),
             fmt::format("byte {}, where the one before it ends", tokens_ * token_bytes));
    }
    tokens_ += length;
  }
  if (bin_.bytes() != tokens_ * token_bytes) {
    refuse(bin_, fmt::format("{} bytes: truncated, or of another index", bin_.bytes()),
           fmt::format("{} bytes for {} tokens", tokens_ * token_bytes, tokens_));
  }
  for (int64_t d = 0, last = 0; d <= documents_; d++) {
    const auto index = load<int64_t>(idx_.data() + header_bytes + 12 * sequences_ + 8 * d);
    const bool fits = index >= last && index <= sequences_ && (d > 0 || index == 0) && (d < documents_ || index == sequences_);
    if (!fits) refuse(idx_, fmt::format("document index {} is {}", d, index), fmt::format("rising from 0 to {} sequences", sequences_));
    last = index;
  }
}

void IndexedFile::check_tokens(int64_t vocabulary) const {
  const auto* narrow = reinterpret_cast<const uint16_t*>(bin_.data());
  const auto* wide = reinterpret_cast<const uint32_t*>(bin_.data());  // negative ids turn into huge ones
  constexpr int64_t block = 1 << 16;
  for (int64_t begin = 0; begin < tokens_; begin += block) {
    const int64_t end = std::min(begin + block, tokens_);
    uint32_t largest = 0;  // without an early exit, so that the loop vectorizes
    if (narrow_) {
      for (int64_t i = begin; i < end; i++) largest = std::max<uint32_t>(largest, narrow[i]);
    } else {
      for (int64_t i = begin; i < end; i++) largest = std::max(largest, wide[i]);
    }
    if (largest < vocabulary) continue;
    for (int64_t i = begin; i < end; i++) {
      const int64_t id = narrow_ ? narrow[i] : static_cast<int32_t>(wide[i]);
      if (id >= 0 && id < vocabulary) continue;
      int64_t document = 0, after = documents_;  // the last document that begins at or before i
      while (after - document > 1) {
        const int64_t middle = (document + after) / 2;
        (document_begin(middle) <= i ? document : after) = middle;
      }
      throw DataError({fmt::format("{}: token id {} at position {} (document {}) is beyond the vocabulary", bin_.path(), id, i, document),
                       bin_.path(), fmt::format("0 to {}", vocabulary - 1), "were the data encoded with another tokenizer?"});
    }
  }
}

int64_t IndexedFile::sequence_begin(int64_t sequence) const {
  if (sequence == sequences_) return tokens_;
  return load<int64_t>(idx_.data() + header_bytes + 4 * sequences_ + 8 * sequence) / (narrow_ ? 2 : 4);
}

int64_t IndexedFile::document_begin(int64_t document) const {
  invariant(document >= 0 && document <= documents_, "no such document");
  return sequence_begin(load<int64_t>(idx_.data() + header_bytes + 12 * sequences_ + 8 * document));
}

void IndexedFile::read(int64_t position, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  invariant(position >= 0 && position <= tokens_ - count, "tokens are read beyond the end of the file");
  if (narrow_) {
    const auto* from = reinterpret_cast<const uint16_t*>(bin_.data()) + position;
    std::copy(from, from + count, out.begin());
  } else {
    std::memcpy(out.data(), bin_.data() + 4 * position, out.size_bytes());
  }
}

}  // namespace tessera
