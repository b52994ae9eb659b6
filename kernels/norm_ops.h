#pragma once
#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// Normalization fused with the residual add. N rows, H hidden. All [N, H] tensors, weight and bias share one type (fp32, bf16, fp16);
/// statistics are fp32. h is rounded to its type before the norm reads it. Gradients of weights are fp32, or bf16 rounded
/// stochastically: element e of dweight by half word e of `rounding`, of dbias by half word H + e.
class NormOps {
 public:
  virtual ~NormOps() = default;
  /// h = residual + delta;  n = (h - mean) rstd weight + bias,  mean and 1 / sqrt(variance + epsilon) over H.
  /// h, n, residual, delta [N, H]; mean, rstd [N] fp32; weight, bias [H]. Without delta (empty) h must be residual itself.
  /// Ba et al. 2016, arXiv:1607.06450
  void layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, Tensor bias,
                          float epsilon, Stream& stream);
  /// dx = dh + the gradient that dn sends back through the norm: dh is the residual's own gradient.   dx, dh, dn, h [N, H]; dx may be dh.
  void layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight, Stream& stream);
  /// dweight = or += sum over N of dn (h - mean) rstd,  dbias = or += sum over N of dn.   dweight, dbias [H].
  void layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, GradientWrite write,
                                  RandomStream rounding, Stream& stream);

  /// h = residual + delta;  n = h rstd weight,  rstd = 1 / sqrt(mean of h^2 + epsilon).   Shapes as above.
  /// Zhang & Sennrich 2019, arXiv:1910.07467
  void rms_norm_forward(Tensor h, Tensor n, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, float epsilon, Stream& stream);
  /// dx = dh + the gradient that dn sends back through the norm; dx may be dh.
  void rms_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor rstd, Tensor weight, Stream& stream);
  /// dweight = or += sum over N of dn h rstd.
  void rms_norm_backward_weight(Tensor dweight, Tensor dn, Tensor h, Tensor rstd, GradientWrite write, RandomStream rounding,
                                Stream& stream);

 private:
  virtual void do_layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight,
                                     Tensor bias, float epsilon, Stream& stream) = 0;
  virtual void do_layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight,
                                            Stream& stream) = 0;
  virtual void do_layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd,
                                             GradientWrite write, RandomStream rounding, Stream& stream) = 0;
  virtual void do_rms_norm_forward(Tensor h, Tensor n, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, float epsilon,
                                   Stream& stream) = 0;
  virtual void do_rms_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor rstd, Tensor weight, Stream& stream) = 0;
  virtual void do_rms_norm_backward_weight(Tensor dweight, Tensor dn, Tensor h, Tensor rstd, GradientWrite write, RandomStream rounding,
                                           Stream& stream) = 0;
};

}  // namespace tessera
