#include "engine/step_data.h"

#include <algorithm>

#include "tokenizer/token_index.h"

namespace tessera {

StepData::StepData(BatchShape shape, bool first, bool last, Mesh& mesh, Device& device)
    : shape_(shape), first_(first), last_(last), mesh_(mesh), device_(device), micro_batches_(mesh.layout().micro_batches()) {
  const Shape all{micro_batches_, shape.rows()};
  if (first) tokens_ = device.arena().permanent(DType::i32, all, MemoryCategory::Data);
  if (first) order_ = device.arena().permanent(DType::i32, all, MemoryCategory::Data);
  if (last) targets_ = device.arena().permanent(DType::i32, all, MemoryCategory::Data);
  if (device.is_null()) return;
  sample_.resize(shape.T + 1);
  for (auto* buffer : {&host_tokens_, &host_order_, &host_targets_, &workspace_}) buffer->resize(shape.rows());
}

void StepData::load(const BatchSource* source, int64_t first, Stream& stream) {
  if (device_.is_null() || (!first_ && !last_)) return;
  const double start = steady_seconds();
  const Layout& layout = mesh_.layout();
  for (int64_t m = 0; m < micro_batches_; m++) {
    for (int64_t b = 0; b < shape_.B; b++) {
      source->sample(first + sample_index(m, layout.degree(Axis::Dp), mesh_.coordinate(Axis::Dp), shape_.B, b), sample_);
      std::copy_n(sample_.begin(), shape_.T, host_tokens_.begin() + b * shape_.T);
      std::copy_n(sample_.begin() + 1, shape_.T, host_targets_.begin() + b * shape_.T);
    }
    const auto write = [&](Tensor all, const std::vector<int32_t>& row) {
      device_.write(all.row_range(m, m + 1).flat(), row.data(), shape_.rows() * bytes_of(DType::i32));
    };
    if (first_) {
      sort_by_token(host_tokens_, host_order_, workspace_);
      write(tokens_, host_tokens_);
      write(order_, host_order_);
    }
    if (last_) write(targets_, host_targets_);
  }
  stream.profile().wait_seconds[static_cast<int>(WaitReason::Data)] += steady_seconds() - start;
}

StageInput StepData::micro_batch(int m) const {
  const auto row = [m](Tensor all) { return all.empty() ? Tensor() : all.row_range(m, m + 1).flat(); };
  return {.tokens = row(tokens_), .order = row(order_), .targets = row(targets_), .received = {}, .to_send = {}};
}

void StepData::set_tokens(std::span<const int32_t> tokens) {
  device_.write(tokens_.row_range(0, 1).flat(), tokens.data(), static_cast<int64_t>(tokens.size_bytes()));
}

}  // namespace tessera
