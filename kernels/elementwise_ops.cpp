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

void ElementwiseOps::add(Tensor out, Tensor a, Tensor b, Stream& stream) {
  expect_whole("add", {{"out", out, a.shape, a.dtype}, {"a", a, a.shape, a.dtype}, {"b", b, a.shape, a.dtype}});
  const int64_t n = out.elements();
  run_op(
      stream,
      {.kind = OpKind::Add, .shape = {{n}, out.dtype}, .flops = 1.0 * n, .read_bytes = a.bytes() + b.bytes(), .write_bytes = out.bytes()},
      [&] { do_add(out, a, b, stream); });
}

// GELU: an exponential and a quotient count as one FLOP each.

void ElementwiseOps::gelu_forward(Tensor y, Tensor x, Stream& stream) {
  expect_whole("gelu_forward", {{"y", y, x.shape, x.dtype}, {"x", x, x.shape, x.dtype}});
  const int64_t n = x.elements();
  run_op(stream,
         {.kind = OpKind::GeluForward, .shape = {{n}, x.dtype}, .flops = 7.0 * n, .read_bytes = x.bytes(), .write_bytes = y.bytes()},
         [&] { do_gelu_forward(y, x, stream); });
}

void ElementwiseOps::gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream) {
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

void ElementwiseOps::ordered_sum(Tensor out, Tensor pieces, Stream& stream) {
  invariant(pieces.shape.rank() == 2 && pieces.shape[0] >= 1, "ordered_sum: pieces must be [R, n] with R >= 1");
  const int64_t R = pieces.shape[0], n = pieces.shape[1];
  expect_whole("ordered_sum", {{"out", out, {n}, DType::f32}, {"pieces", pieces, {R, n}, DType::f32}});
  invariant(!overlap(out, pieces), "ordered_sum: out lies in pieces");
  run_op(stream,
         {.kind = OpKind::OrderedSum,
          .shape = {{R, n}, DType::f32},
          .flops = 1.0 * (R - 1) * n,
          .read_bytes = pieces.bytes(),
          .write_bytes = out.bytes()},
         [&] { do_ordered_sum(out, pieces, stream); });
}

// Embeddings: of a table only the rows that are used count.

void ElementwiseOps::embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream) {
  const int64_t N = h.rows(), H = h.columns(), V = token_weight.rows(), P = position_weight.rows();
  expect_whole("embedding_forward", {{"h", h, {N, H}, token_weight.dtype},
                                     {"tokens", tokens, {N}, DType::i32},
                                     {"token_weight", token_weight, {V, H}, token_weight.dtype},
                                     {"position_weight", position_weight, {P, H}, token_weight.dtype}});
  invariant(T >= 1 && T <= P && N % T == 0, "embedding_forward: T must divide N and be at most P");
  run_op(stream,
         {.kind = OpKind::EmbeddingForward,
          .shape = {{N, H, V, P, T}, h.dtype},
          .flops = 1.0 * N * H,
          .read_bytes = tokens.bytes() + h.bytes() + T * H * bytes_of(h.dtype),
          .write_bytes = h.bytes()},
         [&] { do_embedding_forward(h, tokens, token_weight, position_weight, T, stream); });
}

void ElementwiseOps::token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, Stream& stream) {
  const int64_t N = dh.rows(), H = dh.columns(), V = dtoken.rows();
  expect_whole("token_embedding_backward", {{"dtoken", dtoken, {V, H}, DType::f32},
                                            {"dh", dh, {N, H}, dh.dtype},
                                            {"tokens", tokens, {N}, DType::i32},
                                            {"order", order, {N}, DType::i32}});
  // How many different tokens there are is the data's secret; the price assumes that each occurs once.
  const int64_t sums = N * H * bytes_of(DType::f32);
  run_op(stream,
         {.kind = OpKind::TokenEmbeddingBackward,
          .shape = {{N, H, V}, dh.dtype},
          .flops = 1.0 * N * H,
          .read_bytes = dh.bytes() + tokens.bytes() + order.bytes() + sums,
          .write_bytes = sums},
         [&] { do_token_embedding_backward(dtoken, dh, tokens, order, stream); });
}

void ElementwiseOps::position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, Stream& stream) {
  const int64_t N = dh.rows(), H = dh.columns(), P = dposition.rows();
  expect_whole("position_embedding_backward", {{"dposition", dposition, {P, H}, DType::f32}, {"dh", dh, {N, H}, dh.dtype}});
  invariant(T >= 1 && T <= P && N % T == 0, "position_embedding_backward: T must divide N and be at most P");
  const int64_t sums = T * H * bytes_of(DType::f32);
  run_op(stream,
         {.kind = OpKind::PositionEmbeddingBackward,
          .shape = {{N, H, P, T}, dh.dtype},
          .flops = 1.0 * N * H,
          .read_bytes = dh.bytes() + sums,
          .write_bytes = sums},
         [&] { do_position_embedding_backward(dposition, dh, T, stream); });
}

}  // namespace tessera
