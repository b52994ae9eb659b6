#include "kernels/matmul_ops.h"

#include "base/packed_weight.h"
#include "kernels/expect.h"

namespace tessera {

// Every public op reads like these: check, then price, trace and compute (run_op).
// FLOPs are the matmul's alone; a bias shows in the bytes.

static int64_t bytes_of(const Tensor& tensor) { return tensor.empty() ? 0 : tensor.bytes(); }
static Shape packed_shape(const Tensor& weight) { return {packed_elements(weight.columns(), weight.rows())}; }

void MatmulOps::linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Stream& stream, Tensor packed) {
  const int64_t N = x.rows(), I = x.columns(), O = weight.rows();
  expect_compute_type("linear_forward", x.dtype);
  expect("linear_forward", {{"y", y, {N, O}, x.dtype},
                            {"x", x, {N, I}, x.dtype},
                            {"weight", weight, {O, I}, x.dtype},
                            {"bias", bias, {O}, x.dtype, optional},
                            {"packed", packed, packed_shape(weight), DType::bf16, optional}});
  run_op(stream,
         {.kind = OpKind::LinearForward,
          .shape = linear_shape(N, I, O, bias, packed, x.dtype),
          .flops = 2.0 * N * I * O,
          .read_bytes = x.bytes() + weight.bytes() + bytes_of(bias),
          .write_bytes = y.bytes()},
         [&] { do_linear_forward(y, x, weight, bias, packed, stream); });
}

void MatmulOps::linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Stream& stream, Tensor packed) {
  const int64_t N = dy.rows(), I = weight.columns(), O = dy.columns();
  expect_compute_type("linear_backward_input", dy.dtype);
  expect("linear_backward_input", {{"dx", dx, {N, I}, dy.dtype},
                                   {"dy", dy, {N, O}, dy.dtype},
                                   {"weight", weight, {O, I}, dy.dtype},
                                   {"packed", packed, packed_shape(weight), DType::bf16, optional}});
  run_op(stream,
         {.kind = OpKind::LinearBackwardInput,
          .shape = linear_shape(N, I, O, {}, packed, dy.dtype),
          .flops = 2.0 * N * I * O,
          .read_bytes = dy.bytes() + weight.bytes(),
          .write_bytes = dx.bytes()},
         [&] { do_linear_backward_input(dx, dy, weight, packed, stream); });
}

void MatmulOps::linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                                       Stream& stream) {
  const int64_t N = dy.rows(), I = x.columns(), O = dy.columns();
  expect_compute_type("linear_backward_weight", x.dtype);
  expect_gradient_type("linear_backward_weight", dweight.dtype);
  expect("linear_backward_weight", {{"dweight", dweight, {O, I}, dweight.dtype},
                                    {"dbias", dbias, {O}, dweight.dtype, optional},
                                    {"dy", dy, {N, O}, x.dtype},
                                    {"x", x, {N, I}, x.dtype}});
  const int64_t sums = dweight.bytes() + bytes_of(dbias);
  run_op(stream,
         {.kind = OpKind::LinearBackwardWeight,
          .shape = linear_gradient_shape(N, I, O, dbias, write, x.dtype),
          .flops = 2.0 * N * I * O,
          .read_bytes = dy.bytes() + x.bytes() + read_bytes_of(write, sums),
          .write_bytes = sums},
         [&] { do_linear_backward_weight(dweight, dbias, dy, x, write, rounding, stream); });
}

void MatmulOps::pack_weight(Tensor packed, Tensor weight, PackedFor use, Stream& stream) {
  const int64_t O = weight.rows(), I = weight.columns();
  expect("pack_weight", {{"packed", packed, packed_shape(weight), DType::bf16}, {"weight", weight, {O, I}, DType::bf16}});
  run_op(stream,
         {.kind = OpKind::PackWeight,
          .shape = {{O, I, static_cast<int64_t>(use)}, weight.dtype},
          .read_bytes = weight.bytes(),
          .write_bytes = packed.bytes()},
         [&] { do_pack_weight(packed, weight, use, stream); });
}

}  // namespace tessera
