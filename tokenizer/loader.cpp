#include "tokenizer/loader.h"

#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace tessera {

/// The document border nearest to `position`; 0 or tokens() when there is none inside.
static int64_t nearest_border(const TokenFile& file, int64_t position) {
  const int64_t document = file.document_of(position);
  const int64_t left = file.document_begin(document), right = file.document_begin(document + 1);
  return position - left <= right - position ? left : right;
}

DataSplit split_tokens(const TokenFile& file, double validation_fraction, int64_t sequence_length) {
  const int64_t tokens = file.tokens(), least = sequence_length + 1;
  invariant(sequence_length >= 1, "a sample has at least one token to predict");
  const auto refuse = [&](const std::string& what, const std::string& legal) {
    throw DataError(
        {fmt::format("{} holds {} tokens: {}", file.name(), tokens, what), file.name(), legal, "give more text, or shorter sequences"});
  };
  if (!(validation_fraction >= 0 && validation_fraction < 1)) {
    refuse(fmt::format("a validation fraction of {} cannot be split off", validation_fraction), "0 (none) up to, not including, 1");
  }
  if (validation_fraction == 0) {
    if (tokens < least) refuse(fmt::format("less than one sample of {} + 1", sequence_length), fmt::format("at least {} tokens", least));
    return {{0, tokens}, {tokens, tokens}, true};
  }
  if (tokens < 2 * least) {
    refuse(fmt::format("too few for a training and a validation sample of {} + 1", sequence_length),
           fmt::format("at least {} tokens", 2 * least));
  }
  const int64_t asked = std::llround(static_cast<double>(tokens) * validation_fraction);
  if (asked < least || tokens - asked < least) {
    const double lowest = static_cast<double>(least) / static_cast<double>(tokens);
    refuse(fmt::format("the fraction {} leaves less than one sample of {} + 1 for {}", validation_fraction, sequence_length,
                       asked < least ? "validation" : "training"),
           fmt::format("a fraction from {:.6f} to {:.6f}, or 0", lowest, 1 - lowest));
  }
  const int64_t border = nearest_border(file, tokens - asked), behind = tokens - border;
  const bool usable = border >= least && behind >= least && behind <= 2 * asked && 2 * behind >= asked;
  const int64_t split = usable ? border : tokens - asked;
  return {{0, split}, {split, tokens}, usable};
}

SampleSource::SampleSource(std::shared_ptr<const TokenFile> file, TokenRange range, int64_t sequence_length, std::optional<uint64_t> seed,
                           int64_t data_set)
    : file_(std::move(file)), range_(range), sequence_length_(sequence_length), samples_(0) {
  invariant(sequence_length >= 1, "a sample has at least one token to predict");
  invariant(range.begin >= 0 && range.end <= file_->tokens(), "a range of samples lies outside its file");
  samples_ = (range.tokens() - 1) / sequence_length;
  invariant(samples_ >= 1, "a range of tokens holds no sample");
  const std::string name = data_set == 0 ? "train" : fmt::format("train {}", data_set);
  if (seed) shuffle_.emplace(*seed, RandomPurpose::DataOrder, name);
}

int64_t SampleSource::position(int64_t i) const {
  invariant(i >= 0, "sample indices count from 0");
  int64_t k = i % samples_;
  if (shuffle_) {
    const auto epoch = static_cast<uint64_t>(i / samples_);
    k = static_cast<int64_t>(permute(shuffle_->at(epoch), static_cast<uint64_t>(k), static_cast<uint64_t>(samples_)));
  }
  return range_.begin + k * sequence_length_;
}

void SampleSource::sample(int64_t i, std::span<int32_t> tokens) const {
  invariant(static_cast<int64_t>(tokens.size()) == sequence_length_ + 1, "a sample has sequence_length + 1 tokens");
  file_->read(position(i), tokens);
}

}  // namespace tessera
