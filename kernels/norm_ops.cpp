#include "kernels/norm_ops.h"

#include "base/error.h"
#include "kernels/expect.h"

namespace tessera {

// FLOPs count the work on each element of [N, H]; the few operations on each row do not show beside it.

void NormOps::layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, Tensor bias,
                                 float epsilon, Stream& stream) {
  const int64_t N = residual.rows(), H = residual.columns();
  const DType dtype = residual.dtype;
  expect_compute_type("layer_norm_forward", dtype);
  expect("layer_norm_forward", {{"h", h, {N, H}, dtype},
                                {"n", n, {N, H}, dtype},
                                {"mean", mean, {N}, DType::f32},
                                {"rstd", rstd, {N}, DType::f32},
                                {"residual", residual, {N, H}, dtype},
                                {"delta", delta, {N, H}, dtype, optional},
                                {"weight", weight, {H}, dtype},
                                {"bias", bias, {H}, dtype}});
  const bool adds = !delta.empty();
  invariant(adds || h.data == residual.data, "layer_norm_forward: without delta h must be residual itself");
  run_op(stream,
         {.kind = OpKind::LayerNormForward,
          .shape = {{N, H, adds}, dtype},  // the add is part of the key: it has a price
          .flops = (adds ? 9.0 : 8.0) * N * H,
          .read_bytes = residual.bytes() + (adds ? delta.bytes() : 0) + weight.bytes() + bias.bytes(),
          .write_bytes = (adds ? h.bytes() : 0) + n.bytes() + mean.bytes() + rstd.bytes()},
         [&] { do_layer_norm_forward(h, n, mean, rstd, residual, delta, weight, bias, epsilon, stream); });
}

void NormOps::layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight,
                                        Stream& stream) {
  const int64_t N = h.rows(), H = h.columns();
  expect_compute_type("layer_norm_backward_input", h.dtype);
  expect("layer_norm_backward_input", {{"dx", dx, {N, H}, h.dtype},
                                       {"dh", dh, {N, H}, h.dtype},
                                       {"dn", dn, {N, H}, h.dtype},
                                       {"h", h, {N, H}, h.dtype},
                                       {"mean", mean, {N}, DType::f32},
                                       {"rstd", rstd, {N}, DType::f32},
                                       {"weight", weight, {H}, h.dtype}});
  run_op(stream,
         {.kind = OpKind::LayerNormBackwardInput,
          .shape = {{N, H}, h.dtype},
          .flops = 14.0 * N * H,
          .read_bytes = dh.bytes() + dn.bytes() + h.bytes() + mean.bytes() + rstd.bytes() + weight.bytes(),
          .write_bytes = dx.bytes()},
         [&] { do_layer_norm_backward_input(dx, dh, dn, h, mean, rstd, weight, stream); });
}

void NormOps::layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, GradientWrite write,
                                         RandomStream rounding, Stream& stream) {
  const int64_t N = h.rows(), H = h.columns();
  expect_compute_type("layer_norm_backward_weight", h.dtype);
  expect_gradient_type("layer_norm_backward_weight", dweight.dtype);
  expect("layer_norm_backward_weight", {{"dweight", dweight, {H}, dweight.dtype},
                                        {"dbias", dbias, {H}, dweight.dtype},
                                        {"dn", dn, {N, H}, h.dtype},
                                        {"h", h, {N, H}, h.dtype},
                                        {"mean", mean, {N}, DType::f32},
                                        {"rstd", rstd, {N}, DType::f32}});
  const int64_t sums = dweight.bytes() + dbias.bytes();
  run_op(stream,
         {.kind = OpKind::LayerNormBackwardWeight,
          .shape = {{N, H, key_of(write)}, h.dtype},
          .flops = 5.0 * N * H,
          .read_bytes = dn.bytes() + h.bytes() + mean.bytes() + rstd.bytes() + read_bytes_of(write, sums),
          .write_bytes = sums},
         [&] { do_layer_norm_backward_weight(dweight, dbias, dn, h, mean, rstd, write, rounding, stream); });
}

void NormOps::rms_norm_forward(Tensor h, Tensor n, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, float epsilon,
                               Stream& stream) {
  const int64_t N = residual.rows(), H = residual.columns();
  const DType dtype = residual.dtype;
  expect_compute_type("rms_norm_forward", dtype);
  expect("rms_norm_forward", {{"h", h, {N, H}, dtype},
                              {"n", n, {N, H}, dtype},
                              {"rstd", rstd, {N}, DType::f32},
                              {"residual", residual, {N, H}, dtype},
                              {"delta", delta, {N, H}, dtype, optional},
                              {"weight", weight, {H}, dtype}});
  const bool adds = !delta.empty();
  invariant(adds || h.data == residual.data, "rms_norm_forward: without delta h must be residual itself");
  run_op(stream,
         {.kind = OpKind::RmsNormForward,
          .shape = {{N, H, adds}, dtype},
          .flops = (adds ? 5.0 : 4.0) * N * H,
          .read_bytes = residual.bytes() + (adds ? delta.bytes() : 0) + weight.bytes(),
          .write_bytes = (adds ? h.bytes() : 0) + n.bytes() + rstd.bytes()},
         [&] { do_rms_norm_forward(h, n, rstd, residual, delta, weight, epsilon, stream); });
}

void NormOps::rms_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor rstd, Tensor weight, Stream& stream) {
  const int64_t N = h.rows(), H = h.columns();
  expect_compute_type("rms_norm_backward_input", h.dtype);
  expect("rms_norm_backward_input", {{"dx", dx, {N, H}, h.dtype},
                                     {"dh", dh, {N, H}, h.dtype},
                                     {"dn", dn, {N, H}, h.dtype},
                                     {"h", h, {N, H}, h.dtype},
                                     {"rstd", rstd, {N}, DType::f32},
                                     {"weight", weight, {H}, h.dtype}});
  run_op(stream,
         {.kind = OpKind::RmsNormBackwardInput,
          .shape = {{N, H}, h.dtype},
          .flops = 10.0 * N * H,
          .read_bytes = dh.bytes() + dn.bytes() + h.bytes() + rstd.bytes() + weight.bytes(),
          .write_bytes = dx.bytes()},
         [&] { do_rms_norm_backward_input(dx, dh, dn, h, rstd, weight, stream); });
}

void NormOps::rms_norm_backward_weight(Tensor dweight, Tensor dn, Tensor h, Tensor rstd, GradientWrite write, RandomStream rounding,
                                       Stream& stream) {
  const int64_t N = h.rows(), H = h.columns();
  expect_compute_type("rms_norm_backward_weight", h.dtype);
  expect_gradient_type("rms_norm_backward_weight", dweight.dtype);
  expect(
      "rms_norm_backward_weight",
      {{"dweight", dweight, {H}, dweight.dtype}, {"dn", dn, {N, H}, h.dtype}, {"h", h, {N, H}, h.dtype}, {"rstd", rstd, {N}, DType::f32}});
  run_op(stream,
         {.kind = OpKind::RmsNormBackwardWeight,
          .shape = {{N, H, key_of(write)}, h.dtype},
          .flops = 3.0 * N * H,
          .read_bytes = dn.bytes() + h.bytes() + rstd.bytes() + read_bytes_of(write, dweight.bytes()),
          .write_bytes = dweight.bytes()},
         [&] { do_rms_norm_backward_weight(dweight, dn, h, rstd, write, rounding, stream); });
}

}  // namespace tessera
