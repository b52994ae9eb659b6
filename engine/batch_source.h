#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tokenizer/mixture.h"

namespace tessera {

/// Where token batches come from: sample i [T + 1 tokens] for any i.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual void sample(int64_t i, std::span<int32_t> tokens) const = 0;
};

/// Which sample of a step is row b of micro-batch m on replica d: (m dp + d) micro_batch_size + b. So the samples of a step do not depend on
/// the layout.
inline int64_t sample_index(int64_t m, int64_t dp, int64_t d, int64_t micro_batch_size, int64_t b) {
  return (m * dp + d) * micro_batch_size + b;
}

/// Samples of token files.
class FileBatchSource : public BatchSource {
 public:
  explicit FileBatchSource(MixedSource source) : source_(std::move(source)) {}
  void sample(int64_t i, std::span<int32_t> tokens) const override { source_.sample(i, tokens); }

 private:
  MixedSource source_;
};

}  // namespace tessera
