#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/random.h"
#include "tokenizer/token_file.h"

namespace tessera {

/// Tokens [begin, end) of a token file.
struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t tokens() const { return end - begin; }
};

/// Training text, and behind it the validation text: disjoint, together the whole file.
struct DataSplit {
  TokenRange training, validation;
  bool between_documents = false;  // else a document was cut, because none ends near the fraction asked for
};

/// Splits off the last `validation_fraction` of the tokens, at the border between two documents that is nearest, unless that would more than
/// double or halve the validation text. 0 splits nothing off.
/// Throws DataError, with what is legal, unless both parts hold at least one sample of `sequence_length` + 1 tokens.
DataSplit split_tokens(const TokenFile& file, double validation_fraction, int64_t sequence_length);

/// Samples of T + 1 tokens at stride T, packed over document borders: sample k of the range is its tokens [k T, k T + T], so that every token
/// but the first is predicted exactly once. What does not fill a sample at the end is left out.
///
/// Sample i is a function of (seed, i) alone: epoch e = i / samples_per_epoch() takes each sample once, in an order of its own. So a run
/// resumes at any i, and ranks that take disjoint i see disjoint samples, however many they are. All functions are const and thread-safe.
class SampleSource {
 public:
  /// Shuffled anew in each epoch with `seed`, or in order without one (validation). `data_set` tells sources of one run apart: each has
  /// an order of its own. InternalError when the range holds no sample.
  SampleSource(std::shared_ptr<const TokenFile> file, TokenRange range, int64_t sequence_length, std::optional<uint64_t> seed,
               int64_t data_set = 0);

  int64_t samples_per_epoch() const { return samples_; }
  int64_t sequence_length() const { return sequence_length_; }
  /// Sample i >= 0, of any epoch; tokens [T + 1].
  void sample(int64_t i, std::span<int32_t> tokens) const;
  /// Where sample i begins, in tokens of the file.
  int64_t position(int64_t i) const;

 private:
  std::shared_ptr<const TokenFile> file_;
  TokenRange range_;
  int64_t sequence_length_, samples_;
  std::optional<RandomStream> shuffle_;
};

}  // namespace tessera
