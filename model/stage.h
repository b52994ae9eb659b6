#pragma once
#include <memory>
#include <vector>

#include "model/decls.h"
#include "model/embedding.h"
#include "model/loss_head.h"
#include "model/sublayer.h"

namespace tessera {

/// What one micro-batch brings and where it leaves its results.
struct StageInput {
  Tensor tokens, order;            // [N] int32, first chunk: tokens and rows sorted by token
  Tensor targets;                  // [N] int32, last chunk
  Tensor received;                 // [N, H], other chunks: residual stream of the chunk before / gradient of the chunk behind
  Tensor to_send;                  // [N, H]: written for the next chunk (forward) or the previous one (backward); empty at the ends
  StepPartial* partial = nullptr;  // losses are added here
  float token_weight = 0;          // 1 / (tokens of a step): each token's weight in the loss
};

/// One chunk of the model: forward and backward of one micro-batch, saved activations in `slot`.
class Stage {
 public:
  Stage(const ModelSpec& spec, const std::vector<UnitDecls>& units, StageRange range, BatchShape shape);

  /// Bytes that a micro-batch keeps from forward to backward; each tensor rounded up to the arena's alignment.
  int64_t slot_bytes() const;
  /// Ends with h = residual + delta: in `to_send`, on the last chunk in the slot (docs/decisions/0005-residual-sum-crosses-stages.md).
  void forward(const StageInput& input, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const;
  /// Begins with the loss on the last chunk, ends with the embedding on the first; its gradients overwrite those of `params`, or are added
  /// (pass.first).
  void backward(const StageInput& input, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const;
  /// After a forward on the last chunk: the loss alone (evaluation), or the logits [R, V] of rows [begin, end) (sampling).
  void loss(const StageInput& input, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const;
  void logits(Tensor logits, int64_t begin, const SlotPool& slots, int slot, ShardedParams& params, PassContext& pass) const;

  const StageRange& range() const { return range_; }

 private:
  struct Branch {
    int unit;
    std::unique_ptr<Sublayer> sublayer;
    int64_t slot_offset;
  };
  KeptTensors saved_of(const Branch& branch, const SlotPool& slots, int slot) const;
  Tensor final_hidden(const SlotPool& slots, int slot) const;  // [N, H], last chunk
  void branch_backward(const Branch& branch, Flow& flow, Tensor next, const SlotPool& slots, int slot, ShardedParams& params,
                       PassContext& pass) const;

  StageRange range_;
  BatchShape shape_;
  int64_t hidden_;
  std::vector<Branch> branches_;
  int64_t final_offset_ = 0, slot_bytes_ = 0;
  std::unique_ptr<Embedding> embedding_;
  std::unique_ptr<LossHead> head_;
};

}  // namespace tessera
