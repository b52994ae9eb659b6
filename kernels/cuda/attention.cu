// Attention by our own kernels (attention_kernels.h), whose operands tensors become, or by cuDNN's.
#include <algorithm>
#include <initializer_list>
#include <set>
#include <utility>

#include "kernels/cuda/attention_operands.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/vector_access.h"

namespace tessera {
namespace {

using namespace cuda;

template <class T>
HeadMatrix<T> head_matrix(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data), tensor.row_stride()};
}

bool are_packed(std::initializer_list<Tensor> matrices) {
  return std::ranges::all_of(matrices, [](const Tensor& m) { return is_packed(m.data, m.row_stride() * bytes_of(m.dtype)); });
}

const std::string by_own = "own", by_cudnn = "cudnn";

class CudaAttentionOps final : public AttentionOps {
 public:
  explicit CudaAttentionOps(const CudaContext& context) : context_(context) {}

  std::vector<std::string> candidates(OpKind kind, const ShapeKey& shape) const override {
    if (cudnn_.why_not(kind, shape, context_.workspace.bytes()).empty()) return {by_own, by_cudnn};
    return {by_own};
  }
  std::string choice(OpKind kind, const ShapeKey& shape) const override {
    return cudnn_computes_.contains({kind, shape}) ? by_cudnn : by_own;
  }
  void choose(OpKind kind, const ShapeKey& shape, const std::string& candidate) override {
    invariant(candidate == by_own || candidate == by_cudnn, "attention knows no such candidate");
    if (candidate == by_cudnn) cudnn_computes_.insert({kind, shape});
    if (candidate == by_own) cudnn_computes_.erase({kind, shape});
  }

 private:
  /// Whether cuDNN was chosen for the op and its operands lie as cuDNN's plan expects: then it is enqueued.
  bool enqueued_by_cudnn(OpKind kind, const AttentionTensors& tensors, const AttentionShape& shape, Stream& stream) {
    if (!cudnn_computes_.contains({kind, attention_shape(shape, tensors.q.dtype)})) return false;
    const Tensor& memory = context_.workspace;
    const std::span workspace(static_cast<std::byte*>(memory.data), static_cast<size_t>(memory.bytes()));
    return cudnn_.enqueue(kind, tensors, shape, workspace, cuda_stream(stream));
  }

  void do_attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream& stream) override {
    if (enqueued_by_cudnn(OpKind::AttentionForward, {.q = q, .k = k, .v = v, .y = y, .lse = lse}, shape, stream)) return;
    with_storage(q.dtype, [&]<class T>(T*) {
      cuda::attention_forward<T>({.shape = shape,
                                  .q = head_matrix<const T>(q),
                                  .k = head_matrix<const T>(k),
                                  .v = head_matrix<const T>(v),
                                  .y = head_matrix<T>(y),
                                  .lse = lse.as<float>(),
                                  .packed = are_packed({q, k, v, y})},
                                 cuda_stream(stream));
    });
  }

  void do_attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor delta, Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse,
                             AttentionShape shape, Stream& stream) override {
    const AttentionTensors tensors{.q = q, .k = k, .v = v, .y = y, .lse = lse, .dy = dy, .dq = dq, .dk = dk, .dv = dv};
    if (enqueued_by_cudnn(OpKind::AttentionBackward, tensors, shape, stream)) return;
    with_storage(q.dtype, [&]<class T>(T*) {
      cuda::attention_backward<T>({.shape = shape,
                                   .q = head_matrix<const T>(q),
                                   .k = head_matrix<const T>(k),
                                   .v = head_matrix<const T>(v),
                                   .dy = head_matrix<const T>(dy),
                                   .y = head_matrix<T>(y),
                                   .dq = head_matrix<T>(dq),
                                   .dk = head_matrix<T>(dk),
                                   .dv = head_matrix<T>(dv),
                                   .lse = lse.as<float>(),
                                   .delta = delta.as<float>(),
                                   .packed = are_packed({q, k, v, dy, y, dq, dk, dv})},
                                  cuda_stream(stream));
    });
  }

  const CudaContext& context_;
  mutable CudnnAttention cudnn_;  // plans are made when they are first asked for
  std::set<std::pair<OpKind, ShapeKey>> cudnn_computes_;
};

}  // namespace

std::unique_ptr<AttentionOps> make_cuda_attention_ops(const CudaContext& context) { return std::make_unique<CudaAttentionOps>(context); }

}  // namespace tessera
