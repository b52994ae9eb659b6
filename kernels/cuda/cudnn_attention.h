#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "kernels/attention_ops.h"

namespace tessera::cuda {

/// What an attention op reads and writes (attention_ops.h); of the forward the first five.
struct AttentionTensors {
  Tensor q, k, v, y, lse;
  Tensor dy = {}, dq = {}, dk = {}, dv = {};
};

/// The GPU that plans are made for.
struct CudnnTarget {
  std::string description;     // cuDNN's own, JSON; empty: the current GPU. With one, plans are made without a GPU and cannot run
  int compute_capability = 0;  // of a described one
};

#ifdef TESSERA_HAS_CUDNN
/// Attention by cuDNN's fused kernels, put together by cudnn-frontend: bf16 and fp16, for operands as a layer lays them, q, k, v beside each
/// other in one matrix [B T, (A + 2 K) D], their gradients likewise, y and dy dense. Only deterministic kernels: the backward's keep T x T
/// matrices of as many sequences as the workspace holds, and take these one after the other.
class CudnnAttention {
 public:
  explicit CudnnAttention(CudnnTarget target = {});
  ~CudnnAttention();
  CudnnAttention(const CudnnAttention&) = delete;

  /// Empty where cuDNN computes the op in so much workspace, else why not. Makes its plan, which takes a second, when it is first asked.
  const std::string& why_not(OpKind kind, const ShapeKey& shape, int64_t workspace_bytes);
  /// Enqueues the op. False, with nothing done, where it has no plan or an operand lies in another way. InternalError when cuDNN fails.
  bool enqueue(OpKind kind, const AttentionTensors& tensors, AttentionShape shape, std::span<std::byte> workspace, cudaStream_t stream);
  /// Of the op's plan, if it has one: how many sequences it computes at a time.
  int64_t sequences_at_a_time(OpKind kind, const ShapeKey& shape) const;

 private:
  struct Library;
  struct Plan;

  Plan& plan_of(OpKind kind, const ShapeKey& shape, int64_t workspace_bytes);

  CudnnTarget target_;
  std::unique_ptr<Library> library_;  // from the first question on
  std::map<std::pair<OpKind, ShapeKey>, std::unique_ptr<Plan>> plans_;
};
#else
/// Where Tessera was built without cuDNN's headers, and in emulation.
class CudnnAttention {
 public:
  std::string why_not(OpKind, const ShapeKey&, int64_t) { return "built without cuDNN"; }
  bool enqueue(OpKind, const AttentionTensors&, AttentionShape, std::span<std::byte>, cudaStream_t) { return false; }
};
#endif

}  // namespace tessera::cuda
