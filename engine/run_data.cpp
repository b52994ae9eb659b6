#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "base/error.h"
#include "engine/training_run.h"
#include "tokenizer/mixture.h"

namespace tessera {

static void check(const DataConfig& config) {
  if (config.path.empty() && config.paths.empty()) {
    throw ConfigError(
        {"data.path is not given", "[data]", "a token file, or several in data.paths", "`tessera tokenize encode` makes one from text"});
  }
  if (!config.path.empty() && !(config.paths.empty() && config.weights.empty())) {
    throw ConfigError({"data.path is given beside data.paths or data.weights",
                       "[data]",
                       "data.path for one data set, data.paths and data.weights for several",
                       {}});
  }
  if (config.weights.size() != config.paths.size()) {
    throw ConfigError({fmt::format("data.weights has {} numbers for {} data.paths", config.weights.size(), config.paths.size()),
                       "[data]",
                       fmt::format("{} numbers above 0", config.paths.size()),
                       {}});
  }
}

/// Blocks of tokens and documents spread evenly over the file: enough to tell files apart, little enough for a terabyte.
static std::string fingerprint_of(const TokenFile& file) {
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
  check(config);
  const bool several = config.path.empty();
  const std::vector<std::string> paths = several ? config.paths : std::vector{config.path};
  const std::vector<double> weights = several ? config.weights : std::vector{1.0};
  const int64_t T = run.micro_batch.T;
  RunData data;
  std::vector<SampleSource> training, validation;
  for (size_t set = 0; set < paths.size(); set++) {
    const std::shared_ptr<const TokenFile> file = open_tokens(paths[set], run.model.vocab);
    data.fingerprint += (set > 0 ? "; " : "") + fingerprint_of(*file);
    const DataSplit split = split_tokens(*file, config.validation_fraction, T);
    training.emplace_back(file, split.training, T, static_cast<uint64_t>(run.config.train.seed), static_cast<int64_t>(set));
    if (split.validation.tokens() > 0) validation.emplace_back(file, split.validation, T, std::nullopt);
  }
  data.training = std::make_unique<FileBatchSource>(MixedSource(std::move(training), weights));
  if (!validation.empty()) {
    MixedSource mixed(std::move(validation), weights);
    data.validation_samples = mixed.samples_per_epoch();
    data.validation = std::make_unique<FileBatchSource>(std::move(mixed));
  }
  return data;
}

}  // namespace tessera
