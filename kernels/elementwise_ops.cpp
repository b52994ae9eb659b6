#include "kernels/elementwise_ops.h"

#include <cstddef>

#include "base/error.h"
#include "kernels/expect.h"

namespace tessera {

static bool overlap(const Tensor& a, const Tensor& b) {
  const auto *a_begin = static_cast<const std::byte*>(a.data), *b_begin = static_cast<const std::byte*>(b.data);
  return a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

void ElementwiseOps::zero(Tensor t, Stream& stream) {
  expect_whole("zero", {{"t", t, t.shape, t.dtype}});
  run_op(stream, {.kind = OpKind::Zero, .shape = {{t.elements()}, t.dtype}, .write_bytes = t.bytes()}, [&] { do_zero(t, stream); });
}

void ElementwiseOps::copy(Tensor to, Tensor from, Stream& stream) {
  expect_whole("copy", {{"to", to, from.shape, from.dtype}, {"from", from, from.shape, from.dtype}});
  invariant(to.data == from.data || !overlap(to, from), "copy: the tensors overlap");
  run_op(stream, {.kind = OpKind::Copy, .shape = {{to.elements()}, to.dtype}, .read_bytes = from.bytes(), .write_bytes = to.bytes()},
         [&] { do_copy(to, from, stream); });
}

void ElementwiseOps::cast(Tensor to, Tensor from, float factor, Stream& stream) {
  expect_compute_type("cast", to.dtype);
  expect_compute_type("cast", from.dtype);
  expect_whole("cast", {{"to", to, from.shape, to.dtype}, {"from", from, from.shape, from.dtype}});
  invariant((to.data == from.data && to.dtype == from.dtype) || !overlap(to, from), "cast: the tensors overlap");
  const int64_t n = to.elements();
  run_op(stream,
         {.kind = OpKind::Cast,
          .shape = {{n, static_cast<int64_t>(from.dtype)}, to.dtype},
          .flops = 1.0 * n,
          .read_bytes = from.bytes(),
          .write_bytes = to.bytes()},
         [&] { do_cast(to, from, factor, stream); });
}

void ElementwiseOps::add(Tensor out, Tensor a, Tensor b, Stream& stream) {
  expect_compute_type("add", a.dtype);
  expect_whole("add", {{"out", out, a.shape, a.dtype}, {"a", a, a.shape, a.dtype}, {"b", b, a.shape, a.dtype}});
  const int64_t n = out.elements();
  run_op(
      stream,
      {.kind = OpKind::Add, .shape = {{n}, out.dtype}, .flops = 1.0 * n, .read_bytes = a.bytes() + b.bytes(), .write_bytes = out.bytes()},
      [&] { do_add(out, a, b, stream); });
}

// Activations: an exponential and a quotient count as one FLOP each.

void ElementwiseOps::gelu_forward(Tensor y, Tensor x, Stream& stream) {
  expect_compute_type("gelu_forward", x.dtype);
  expect_whole("gelu_forward", {{"y", y, x.shape, x.dtype}, {"x", x, x.shape, x.dtype}});
  const int64_t n = x.elements();
  run_op(stream,
         {.kind = OpKind::GeluForward, .shape = {{n}, x.dtype}, .flops = 7.0 * n, .read_bytes = x.bytes(), .write_bytes = y.bytes()},
         [&] { do_gelu_forward(y, x, stream); });
}

void ElementwiseOps::gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream) {
  expect_compute_type("gelu_backward", x.dtype);
  expect_whole("gelu_backward", {{"dx", dx, x.shape, x.dtype}, {"dy", dy, x.shape, x.dtype}, {"x", x, x.shape, x.dtype}});
  const int64_t n = x.elements();
  run_op(stream,
         {.kind = OpKind::GeluBackward,
          .shape = {{n}, x.dtype},
          .flops = 15.0 * n,
          .read_bytes = dy.bytes() + x.bytes(),
          .write_bytes = dx.bytes()},
         [&] { do_gelu_backward(dx, dy, x, stream); });
}

void ElementwiseOps::swiglu_forward(Tensor y, Tensor gate_up, Stream& stream) {
  const int64_t N = y.rows(), F = y.columns();
  expect_compute_type("swiglu_forward", y.dtype);
  expect_whole("swiglu_forward", {{"y", y, {N, F}, y.dtype}, {"gate_up", gate_up, {N, 2 * F}, y.dtype}});
  run_op(stream,
         {.kind = OpKind::SwigluForward,
          .shape = {{N, F}, y.dtype},
          .flops = 4.0 * N * F,
          .read_bytes = gate_up.bytes(),
          .write_bytes = y.bytes()},
         [&] { do_swiglu_forward(y, gate_up, stream); });
}

void ElementwiseOps::swiglu_backward(Tensor dgate_up, Tensor dy, Tensor gate_up, Stream& stream) {
  const int64_t N = dy.rows(), F = dy.columns();
  expect_compute_type("swiglu_backward", dy.dtype);
  expect_whole("swiglu_backward",
               {{"dgate_up", dgate_up, {N, 2 * F}, dy.dtype}, {"dy", dy, {N, F}, dy.dtype}, {"gate_up", gate_up, {N, 2 * F}, dy.dtype}});
  run_op(stream,
         {.kind = OpKind::SwigluBackward,
          .shape = {{N, F}, dy.dtype},
          .flops = 10.0 * N * F,
          .read_bytes = dy.bytes() + gate_up.bytes(),
          .write_bytes = dgate_up.bytes()},
         [&] { do_swiglu_backward(dgate_up, dy, gate_up, stream); });
}

void ElementwiseOps::rotary(Tensor x, Tensor table, Turn turn, Stream& stream) {
  const int64_t N = x.rows(), width = x.columns(), T = table.rows(), D = table.columns();
  expect_compute_type("rotary", x.dtype);
  expect("rotary", {{"x", x, {N, width}, x.dtype}});
  expect_whole("rotary", {{"table", table, {T, D}, DType::f32}});
  invariant(D >= 2 && D % 2 == 0 && width % D == 0, "rotary: D must be even and divide the columns of x");
  invariant(T >= 1 && N % T == 0, "rotary: T must divide N");
  run_op(stream,
         {.kind = OpKind::Rotary,
          .shape = {{N, width, T, D}, x.dtype},
          .flops = 3.0 * N * width,
          .read_bytes = x.bytes() + table.bytes(),
          .write_bytes = x.bytes()},
         [&] { do_rotary(x, table, turn, stream); });
}

void ElementwiseOps::ordered_sum(Tensor out, Tensor pieces, Stream& stream) {
  invariant(pieces.shape.rank() == 2 && pieces.shape[0] >= 1, "ordered_sum: pieces must be [R, n] with R >= 1");
  const int64_t R = pieces.shape[0], n = pieces.shape[1];
  expect_gradient_type("ordered_sum", out.dtype);
  expect_whole("ordered_sum", {{"out", out, {n}, out.dtype}, {"pieces", pieces, {R, n}, out.dtype}});
  invariant(!overlap(out, pieces), "ordered_sum: out lies in pieces");
  run_op(stream,
         {.kind = OpKind::OrderedSum,
          .shape = {{R, n}, out.dtype},
          .flops = 1.0 * (R - 1) * n,
          .read_bytes = pieces.bytes(),
          .write_bytes = out.bytes()},
         [&] { do_ordered_sum(out, pieces, stream); });
}

// Embeddings: of a table only the rows that are used count.

void ElementwiseOps::embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream) {
  const bool positions = !position_weight.empty();
  const int64_t N = h.rows(), H = h.columns(), V = token_weight.rows(), P = positions ? position_weight.rows() : 0;
  expect_compute_type("embedding_forward", h.dtype);
  expect_whole("embedding_forward", {{"h", h, {N, H}, h.dtype},
                                     {"tokens", tokens, {N}, DType::i32},
                                     {"token_weight", token_weight, {V, H}, h.dtype},
                                     {"position_weight", position_weight, {P, H}, h.dtype, optional}});
  invariant(T >= 1 && N % T == 0, "embedding_forward: T must divide N");
  invariant(!positions || T <= P, "embedding_forward: T must be at most P");
  run_op(stream,
         {.kind = OpKind::EmbeddingForward,
          .shape = {{N, H, V, P, T}, h.dtype},
          .flops = positions ? 1.0 * N * H : 0,
          .read_bytes = tokens.bytes() + h.bytes() + (positions ? T * H * bytes_of(h.dtype) : 0),
          .write_bytes = h.bytes()},
         [&] { do_embedding_forward(h, tokens, token_weight, position_weight, T, stream); });
}

void ElementwiseOps::token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, GradientWrite write,
                                              RandomStream rounding, Stream& stream) {
  const int64_t N = dh.rows(), H = dh.columns(), V = dtoken.rows();
  expect_compute_type("token_embedding_backward", dh.dtype);
  expect_gradient_type("token_embedding_backward", dtoken.dtype);
  expect_whole("token_embedding_backward", {{"dtoken", dtoken, {V, H}, dtoken.dtype},
                                            {"dh", dh, {N, H}, dh.dtype},
                                            {"tokens", tokens, {N}, DType::i32},
                                            {"order", order, {N}, DType::i32}});
  // How many different tokens there are is the data's secret; the price of adding assumes that each occurs once.
  const int64_t sums = N * H * bytes_of(dtoken.dtype);
  run_op(stream,
         {.kind = OpKind::TokenEmbeddingBackward,
          .shape = {{N, H, V, key_of(write)}, dh.dtype},
          .flops = 1.0 * N * H,
          .read_bytes = dh.bytes() + tokens.bytes() + order.bytes() + read_bytes_of(write, sums),
          .write_bytes = write == GradientWrite::Add ? sums : dtoken.bytes()},
         [&] { do_token_embedding_backward(dtoken, dh, tokens, order, write, rounding, stream); });
}

void ElementwiseOps::position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, GradientWrite write, RandomStream rounding,
                                                 Stream& stream) {
  const int64_t N = dh.rows(), H = dh.columns(), P = dposition.rows();
  expect_compute_type("position_embedding_backward", dh.dtype);
  expect_gradient_type("position_embedding_backward", dposition.dtype);
  expect_whole("position_embedding_backward", {{"dposition", dposition, {P, H}, dposition.dtype}, {"dh", dh, {N, H}, dh.dtype}});
  invariant(T >= 1 && T <= P && N % T == 0, "position_embedding_backward: T must divide N and be at most P");
  const int64_t sums = T * H * bytes_of(dposition.dtype);
  run_op(stream,
         {.kind = OpKind::PositionEmbeddingBackward,
          .shape = {{N, H, P, T, key_of(write)}, dh.dtype},
          .flops = 1.0 * N * H,
          .read_bytes = dh.bytes() + read_bytes_of(write, sums),
          .write_bytes = write == GradientWrite::Add ? sums : dposition.bytes()},
         [&] { do_position_embedding_backward(dposition, dh, T, write, rounding, stream); });
}

}  // namespace tessera
