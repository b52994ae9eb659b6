#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "engine/training_run.h"

namespace tessera {

/// Blocks of tokens and documents spread evenly over the file: enough to tell files apart, little enough for a terabyte.
static std::string fingerprint_of(const IndexedFile& file) {
  constexpr int64_t blocks = 256, block_tokens = 1024;
  uint64_t hash = 0;
  std::vector<int32_t> tokens(static_cast<size_t>(std::min(block_tokens, file.tokens())));
  for (int64_t block = 0; block < blocks; block++) {
    // In real numbers: the product of two large counts would overflow.
    const double place = static_cast<double>(block) / (blocks - 1);
    file.read(static_cast<int64_t>(place * static_cast<double>(file.tokens() - static_cast<int64_t>(tokens.size()))), tokens);
    const int64_t begin = file.document_begin(static_cast<int64_t>(place * static_cast<double>(file.documents())));
    hash = XXH3_64bits_withSeed(tokens.data(), tokens.size() * sizeof(int32_t), hash);
    hash = XXH3_64bits_withSeed(&begin, sizeof begin, hash);
  }
  return fmt::format("{} tokens, {} documents, {:016x}", file.tokens(), file.documents(), hash);
}

RunData open_run_data(const ResolvedRun& run) {
  const DataConfig& config = run.config.data;
  if (config.path.empty()) {
    throw ConfigError({"data.path is not given", "[data]", "the prefix of a token file", "`tessera tokenize encode` makes one from text"});
  }
  RunData data;
  data.file = std::make_shared<const IndexedFile>(config.path, run.model.vocab);
  data.fingerprint = fingerprint_of(*data.file);
  const int64_t T = run.micro_batch.T;
  data.split = split_tokens(*data.file, config.validation_fraction, T);
  data.training =
      std::make_unique<FileBatchSource>(SampleSource(data.file, data.split.training, T, static_cast<uint64_t>(run.config.train.seed)));
  if (data.split.validation.tokens() > T) {
    SampleSource validation(data.file, data.split.validation, T, std::nullopt);
    data.validation_samples = validation.samples_per_epoch();
    data.validation = std::make_unique<FileBatchSource>(std::move(validation));
  }
  return data;
}

}  // namespace tessera
