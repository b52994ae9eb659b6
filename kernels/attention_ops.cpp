#include "kernels/attention_ops.h"

#include "base/error.h"
#include "kernels/expect.h"

namespace tessera {

// The widest head that the tiles of every device hold, and what its vectors are made of.
constexpr int64_t max_head_width = 256, head_width_unit = 8;

static void check(const AttentionShape& s) {
  invariant(s.B > 0 && s.T > 0 && s.A > 0 && s.K > 0 && s.A % s.K == 0, "attention: query heads are no multiple of key/value heads");
  invariant(s.D > 0 && s.D <= max_head_width && s.D % head_width_unit == 0, "attention: a head's width is a multiple of 8 up to 256");
}

// Query-key pairs that are computed: the causal half, diagonal included.
static double pairs(const AttentionShape& s) { return 0.5 * s.B * s.A * s.T * (s.T + 1.0); }

void AttentionOps::attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream& stream) {
  check(shape);
  const auto& [B, T, A, K, D] = shape;
  const Shape queries = {B * T, A * D}, keys = {B * T, K * D};
  expect_compute_type("attention_forward", q.dtype);
  expect("attention_forward", {{"y", y, queries, q.dtype},
                               {"lse", lse, {B, A, T}, DType::f32},
                               {"q", q, queries, q.dtype},
                               {"k", k, keys, q.dtype},
                               {"v", v, keys, q.dtype}});
  run_op(stream,
         {.kind = OpKind::AttentionForward,
          .shape = attention_shape(shape, q.dtype),
          .flops = 4.0 * D * pairs(shape),  // q k^T and p v
          .read_bytes = q.bytes() + k.bytes() + v.bytes(),
          .write_bytes = y.bytes() + lse.bytes()},
         [&] { do_attention_forward(y, lse, q, k, v, shape, stream); });
}

void AttentionOps::attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor delta, Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y,
                                      Tensor lse, AttentionShape shape, Stream& stream) {
  check(shape);
  const auto& [B, T, A, K, D] = shape;
  const Shape queries = {B * T, A * D}, keys = {B * T, K * D}, rows = {B, A, T};
  expect_compute_type("attention_backward", q.dtype);
  expect("attention_backward", {{"dq", dq, queries, q.dtype},
                                {"dk", dk, keys, q.dtype},
                                {"dv", dv, keys, q.dtype},
                                {"delta", delta, rows, DType::f32},
                                {"dy", dy, queries, q.dtype},
                                {"q", q, queries, q.dtype},
                                {"k", k, keys, q.dtype},
                                {"v", v, keys, q.dtype},
                                {"y", y, queries, q.dtype},
                                {"lse", lse, rows, DType::f32}});
  run_op(stream,
         {.kind = OpKind::AttentionBackward,
          .shape = attention_shape(shape, q.dtype),
          .flops = 10.0 * D * pairs(shape),  // q k^T again, dy v^T, and one for each of dq, dk, dv
          .read_bytes = dy.bytes() + q.bytes() + k.bytes() + v.bytes() + y.bytes() + lse.bytes(),
          .write_bytes = dq.bytes() + dk.bytes() + dv.bytes() + delta.bytes()},
         [&] { do_attention_backward(dq, dk, dv, delta, dy, q, k, v, y, lse, shape, stream); });
}

}  // namespace tessera
