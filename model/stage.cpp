// N = B T rows of a micro-batch   H hidden
#include "model/stage.h"

#include <algorithm>
#include <array>

#include "model/attention.h"
#include "model/mlp.h"

namespace tessera {

Stage::Stage(const ModelSpec& spec, const std::vector<UnitDecls>& units, StageRange range, BatchShape shape)
    : range_(range), shape_(shape), hidden_(spec.hidden) {
  for (int64_t block = range.first_block; block < range.last_block; block++) {
    const int unit = static_cast<int>(block) + 1;
    const std::string prefix = units[unit].name + ".";
    branches_.push_back({unit, std::make_unique<Attention>(spec, units[unit], prefix), 0});
    branches_.push_back({unit, std::make_unique<Mlp>(spec, units[unit], prefix), 0});
  }
  for (Branch& branch : branches_) {
    branch.slot_offset = slot_bytes_;
    slot_bytes_ += tessera::slot_bytes(branch.sublayer->saved(shape));
  }
  if (range.first) embedding_ = std::make_unique<Embedding>(spec, units.front());
  if (range.last) {
    head_ = std::make_unique<LossHead>(spec, units.back());
    final_offset_ = slot_bytes_;
    slot_bytes_ += arena_rounded(bytes_of(Shape{shape.rows(), hidden_}, shape.dtype));
  }
}

int64_t Stage::slot_bytes() const { return slot_bytes_; }

KeptTensors Stage::saved_of(const Branch& branch, const SlotPool& slots, int slot) const {
  KeptTensors tensors;
  int64_t offset = branch.slot_offset;
  for (const KeptTensor& saved : branch.sublayer->saved(shape_)) {
    tensors.push_back(slots.tensor(slot, offset, saved.dtype, saved.shape));
    offset += arena_rounded(tensors.back().bytes());
  }
  return tensors;
}

Tensor Stage::final_hidden(const SlotPool& slots, int slot) const {
  return slots.tensor(slot, final_offset_, shape_.dtype, {shape_.rows(), hidden_});
}

void Stage::forward(const StageInput& input, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const {
  ScratchScope scratch(pass.device.arena());
  Flow flow;
  flow.delta_buffer = scratch.take(shape_.dtype, {shape_.rows(), hidden_});  // [N, H]
  flow.residual = saved_of(branches_.front(), slots, slot)[0];               // the first norm's h: there is no delta yet
  if (embedding_) {
    embedding_->forward(flow.residual, input.tokens, params.gather(0, pass.stream), pass);
    params.release(0, pass.stream);
  } else {
    pass.device.elementwise().copy(flow.residual, input.received, pass.stream);
  }
  for (const Branch& branch : branches_) {
    branch.sublayer->forward(flow, params.gather(branch.unit, pass.stream), saved_of(branch, slots, slot), pass);
    params.release(branch.unit, pass.stream);
  }
  // What leaves the chunk is h = residual + delta: the next norm reads the same sum, whoever added it.
  pass.device.elementwise().add(head_ ? final_hidden(slots, slot) : input.to_send, flow.residual, flow.delta, pass.stream);
}

void Stage::branch_backward(const Branch& branch, Flow& flow, Tensor next, const SlotPool& slots, int slot, ShardedParams& params,
                            PassContext& pass) const {
  const UnitView& unit = params.gather(branch.unit, pass.stream);
  const KeptTensors saved = saved_of(branch, slots, slot);
  ScratchScope scratch(pass.device.arena());
  KeptTensors kept;
  for (const KeptTensor& tensor : branch.sublayer->kept(shape_)) kept.push_back(scratch.take(tensor.dtype, tensor.shape));
  flow.next_gradient = next;
  branch.sublayer->backward_input(flow, unit, saved, kept, pass);
  branch.sublayer->backward_weight(flow, unit, saved, kept, pass);
  flow.gradient = next;
  params.release(branch.unit, pass.stream);
}

void Stage::backward(const StageInput& input, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const {
  ScratchScope scratch(pass.device.arena());
  const std::array<Tensor, 2> buffers = {scratch.take(shape_.dtype, {shape_.rows(), hidden_}),
                                         scratch.take(shape_.dtype, {shape_.rows(), hidden_})};  // [N, H]
  Flow flow;
  flow.gradient = input.received;
  if (head_) {
    const int unit = range_.last_unit() - 1;
    flow.gradient = buffers[1];
    head_->backward(flow.gradient, final_hidden(slots, slot), input.targets, input.token_weight, input.partial,
                    params.gather(unit, pass.stream), pass);
    params.release(unit, pass.stream);
  }
  for (size_t i = branches_.size(); i-- > 0;) {
    const bool leaves = i == 0 && !embedding_;
    const Tensor next = leaves ? input.to_send : flow.gradient.data == buffers[0].data ? buffers[1] : buffers[0];
    branch_backward(branches_[i], flow, next, slots, slot, params, pass);
  }
  if (embedding_) {
    embedding_->backward_weight(flow.gradient, input.tokens, input.order, params.gather(0, pass.stream), pass);
    params.release(0, pass.stream);
  }
}

void Stage::loss(const StageInput& input, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const {
  const int unit = range_.last_unit() - 1;
  head_->loss(final_hidden(slots, slot), input.targets, input.partial, params.gather(unit, pass.stream), pass);
  params.release(unit, pass.stream);
}

void Stage::logits(Tensor logits, int64_t begin, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const {
  const int unit = range_.last_unit() - 1;
  const Tensor rows = final_hidden(slots, slot).row_range(begin, begin + logits.rows());  // [R, H]
  head_->logits(logits, rows, params.gather(unit, pass.stream), pass);
  params.release(unit, pass.stream);
}

}  // namespace tessera
