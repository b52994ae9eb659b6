#include "engine/step_data.h"

#include <algorithm>

#include "tokenizer/token_index.h"

namespace tessera {

/// Steps whose tokens the device holds at a time, where they are copied ahead.
constexpr int entries_ahead = 2;

StepData::StepData(BatchShape shape, bool first, bool last, Mesh& mesh, Device& device)
    : shape_(shape),
      first_(first),
      last_(last),
      staged_(!device.traits().host_memory),
      mesh_(mesh),
      device_(device),
      micro_batches_(mesh.layout().micro_batches()),
      tokens_(field(first)),
      order_(field(first)),
      targets_(field(last)),
      uploaded_(entries_ahead),
      unused_(entries_ahead) {
  if (device.is_null()) return;
  sample_.resize(shape.T + 1);
  workspace_.resize(shape.rows());
}

StepData::Field StepData::field(bool used) const {
  if (!used) return {};
  const int entries = staged_ ? entries_ahead : 1;
  const auto ring = [&](MemorySpace space) {
    return Ring(device_.arena(), entries, DType::i32, {micro_batches_, shape_.rows()}, MemoryCategory::Data, space);
  };
  const Ring device = ring(MemorySpace::Device);
  return {device, staged_ ? ring(MemorySpace::PinnedHost) : device};
}

void StepData::load(const BatchSource* source, int64_t first, Stream& stream) {
  if (!first_ && !last_) return;
  const double start = steady_seconds();
  if (staged_) {
    unused_[use_ % entries_ahead] = stream.record();  // whatever was enqueued so far has read the entry of the step before
    use_++;
    device_.await(uploaded_[use_ % entries_ahead]);  // long ago: the host is two steps ahead at most
  }
  if (!device_.is_null()) read_samples(*source, first);
  if (staged_) upload(stream);
  stream.add_host_seconds(WaitReason::Data, steady_seconds() - start);
}

void StepData::read_samples(const BatchSource& source, int64_t first) {
  const Layout& layout = mesh_.layout();
  const int64_t N = shape_.rows();
  const auto row = [&](const Field& field, int64_t m) {
    return field.used() ? std::span(field.host[use_].as<int32_t>() + m * N, static_cast<size_t>(N)) : std::span<int32_t>();
  };
  for (int64_t m = 0; m < micro_batches_; m++) {
    const std::span<int32_t> tokens = row(tokens_, m), targets = row(targets_, m);
    for (int64_t b = 0; b < shape_.B; b++) {
      source.sample(first + sample_index(m, layout.degree(Axis::Dp), mesh_.coordinate(Axis::Dp), shape_.B, b), sample_);
      if (first_) std::copy_n(sample_.begin(), shape_.T, tokens.begin() + b * shape_.T);
      if (last_) std::copy_n(sample_.begin() + 1, shape_.T, targets.begin() + b * shape_.T);
    }
    if (first_) sort_by_token(tokens, row(order_, m), workspace_);
  }
}

void StepData::upload(Stream& stream) {
  Stream& copies = device_.copies();
  Event& uploaded = uploaded_[use_ % entries_ahead];
  copies.set_phase(Phase::Data);
  copies.wait(unused_[use_ % entries_ahead], WaitReason::Data);
  for (const Field* field : fields()) {
    if (field->used()) device_.copy(field->device[use_], field->host[use_], copies);
  }
  uploaded = copies.record();
  stream.wait(uploaded, WaitReason::Data);
}

StageInput StepData::micro_batch(int m) const {
  const auto row = [&](const Field& field) { return field.used() ? field.device[use_].row_range(m, m + 1).flat() : Tensor(); };
  return {.tokens = row(tokens_), .order = row(order_), .targets = row(targets_), .received = {}, .to_send = {}};
}

void StepData::set_tokens(std::span<const int32_t> tokens) {
  device_.write(tokens_.device[use_].row_range(0, 1).flat(), tokens.data(), static_cast<int64_t>(tokens.size_bytes()));
}

}  // namespace tessera
