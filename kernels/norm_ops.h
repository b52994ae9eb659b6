#pragma once
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// Layer normalization fused with the residual add. N rows, H hidden. Statistics in fp32.      Ba et al. 2016, arXiv:1607.06450
class NormOps {
 public:
  virtual ~NormOps() = default;
  /// h = residual + delta;  n = (h - mean) rstd weight + bias,  mean and 1 / sqrt(variance + epsilon) over H.
  /// h, n, residual, delta [N, H]; mean, rstd [N] fp32; weight, bias [H]. Without delta (empty) h must be residual itself.
  void layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, Tensor bias,
                          float epsilon, Stream& stream);
  /// dx = dh + the gradient that dn sends back through the norm: dh is the residual's own gradient.   dx, dh, dn, h [N, H]; dx may be dh.
  void layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight, Stream& stream);
  /// dweight += sum over N of dn (h - mean) rstd,  dbias += sum over N of dn.   dweight, dbias [H].
  void layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Stream& stream);

 private:
  virtual void do_layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight,
                                     Tensor bias, float epsilon, Stream& stream) = 0;
  virtual void do_layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight,
                                            Stream& stream) = 0;
  virtual void do_layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd,
                                             Stream& stream) = 0;
};

}  // namespace tessera
