// The norm family on a GPU: both norms go through the same kernels.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/norm_kernels.h"

namespace tessera {
namespace {

class CudaNormOps final : public NormOps {
 public:
  explicit CudaNormOps(const CudaContext& context) : context_(context) {}

 private:
  void do_layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, Tensor bias,
                             float epsilon, Stream& stream) override {
    cuda::norm_forward(h, n, mean, rstd, residual, delta, weight, bias, epsilon, context_, cuda_stream(stream));
  }

  void do_layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight,
                                    Stream& stream) override {
    cuda::norm_backward_input(dx, dh, dn, h, mean, rstd, weight, context_, cuda_stream(stream));
  }

  void do_layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, GradientWrite write,
                                     RandomStream rounding, Stream& stream) override {
    cuda::norm_backward_weight(dweight, dbias, dn, h, mean, rstd, write, rounding, context_, cuda_stream(stream));
  }

  void do_rms_norm_forward(Tensor h, Tensor n, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, float epsilon,
                           Stream& stream) override {
    cuda::norm_forward(h, n, {}, rstd, residual, delta, weight, {}, epsilon, context_, cuda_stream(stream));
  }

  void do_rms_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor rstd, Tensor weight, Stream& stream) override {
    cuda::norm_backward_input(dx, dh, dn, h, {}, rstd, weight, context_, cuda_stream(stream));
  }

  void do_rms_norm_backward_weight(Tensor dweight, Tensor dn, Tensor h, Tensor rstd, GradientWrite write, RandomStream rounding,
                                   Stream& stream) override {
    cuda::norm_backward_weight(dweight, {}, dn, h, {}, rstd, write, rounding, context_, cuda_stream(stream));
  }

  const CudaContext& context_;
};

}  // namespace

std::unique_ptr<NormOps> make_cuda_norm_ops(const CudaContext& context) { return std::make_unique<CudaNormOps>(context); }

}  // namespace tessera
