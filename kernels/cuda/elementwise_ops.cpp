// The elementwise family on a GPU. Zeros and copies are the runtime's own.
#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/elementwise_kernels.h"

namespace tessera {

using cuda::check;

namespace {

class CudaElementwiseOps final : public ElementwiseOps {
 private:
  void do_zero(Tensor t, Stream& stream) override {
    const auto bytes = static_cast<size_t>(t.bytes());
    if (bytes > 0) check(cudaMemsetAsync(t.data, 0, bytes, cuda_stream(stream)), "cudaMemsetAsync");
  }

  void do_copy(Tensor to, Tensor from, Stream& stream) override {
    const auto bytes = static_cast<size_t>(from.bytes());
    if (bytes == 0 || to.data == from.data) return;
    // Either may be pinned memory of the host: a step's control is published so.
    check(cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyDefault, cuda_stream(stream)), "cudaMemcpyAsync");
  }

  void do_cast(Tensor to, Tensor from, float factor, Stream& stream) override { cuda::cast(to, from, factor, cuda_stream(stream)); }

  void do_add(Tensor out, Tensor a, Tensor b, Stream& stream) override { cuda::add(out, a, b, cuda_stream(stream)); }

  void do_gelu_forward(Tensor y, Tensor x, Stream& stream) override { cuda::gelu_forward(y, x, cuda_stream(stream)); }

  void do_gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream) override { cuda::gelu_backward(dx, dy, x, cuda_stream(stream)); }

  void do_swiglu_forward(Tensor y, Tensor gate_up, Stream& stream) override { cuda::swiglu_forward(y, gate_up, cuda_stream(stream)); }

  void do_swiglu_backward(Tensor dgate_up, Tensor dy, Tensor gate_up, Stream& stream) override {
    cuda::swiglu_backward(dgate_up, dy, gate_up, cuda_stream(stream));
  }

  void do_rotary(Tensor x, Tensor table, Turn turn, Stream& stream) override { cuda::rotary(x, table, turn, cuda_stream(stream)); }

  void do_ordered_sum(Tensor out, Tensor pieces, Stream& stream) override { cuda::ordered_sum(out, pieces, cuda_stream(stream)); }

  void do_embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream) override {
    cuda::embedding_forward(h, tokens, token_weight, position_weight, T, cuda_stream(stream));
  }

  void do_token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, GradientWrite write, RandomStream rounding,
                                   Stream& stream) override {
    cuda::token_embedding_backward(dtoken, dh, tokens, order, write, rounding, cuda_stream(stream));
  }

  void do_position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, GradientWrite write, RandomStream rounding,
                                      Stream& stream) override {
    cuda::position_embedding_backward(dposition, dh, T, write, rounding, cuda_stream(stream));
  }
};

}  // namespace

std::unique_ptr<ElementwiseOps> make_cuda_elementwise_ops(const CudaContext&) { return std::make_unique<CudaElementwiseOps>(); }

}  // namespace tessera
