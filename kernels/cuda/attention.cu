// Attention by our own kernels (attention_kernels.h): tensors become their operands.
#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/attention_operands.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
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

class CudaAttentionOps final : public AttentionOps {
 private:
  void do_attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream& stream) override {
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
};

}  // namespace

std::unique_ptr<AttentionOps> make_cuda_attention_ops(const CudaContext&) { return std::make_unique<CudaAttentionOps>(); }

}  // namespace tessera
