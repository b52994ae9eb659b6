#include <algorithm>

#include "base/error.h"
#include "engine/training_run.h"

namespace tessera {

RunData open_run_data(const ResolvedRun& run) {
  const DataConfig& config = run.config.data;
  if (config.path.empty()) {
    throw ConfigError({"data.path is not given", "[data]", "the prefix of a token file", "`tessera tokenize encode` makes one from text"});
  }
  RunData data;
  data.file = std::make_shared<const IndexedFile>(config.path, run.model.vocab);
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
