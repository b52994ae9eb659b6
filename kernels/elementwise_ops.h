#pragma once
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// Ops that touch each element once. N rows, H hidden, V vocabulary, P positions, T tokens of a sequence.
class ElementwiseOps {
 public:
  virtual ~ElementwiseOps() = default;
  /// t = 0, contiguous.
  void zero(Tensor t, Stream& stream);
  /// to = from, contiguous, same shape and dtype.
  void copy(Tensor to, Tensor from, Stream& stream);
  /// out = a + b, same shape; out may be a or b.
  void add(Tensor out, Tensor a, Tensor b, Stream& stream);
  /// y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).      Hendrycks & Gimpel 2016, arXiv:1606.08415, the tanh form of GPT-2
  void gelu_forward(Tensor y, Tensor x, Stream& stream);
  /// dx = dy gelu'(x); dx may be dy.
  void gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream);
  /// out[i] = pieces[0][i] + pieces[1][i] + ... in rank order, fp32.   out [n], pieces [R, n]; out may not lie in pieces.
  void ordered_sum(Tensor out, Tensor pieces, Stream& stream);
  /// h[r] = token_weight[tokens[r]] + position_weight[r % T].   h [N, H], tokens [N] int32, token_weight [V, H], position_weight [P, H], N a multiple of T.
  void embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream);
  /// dtoken[v] += sum of dh[r] over the r with tokens[r] = v, in row order, without float atomics.
  /// dtoken [V, H], dh [N, H], tokens [N], order [N]: row numbers sorted stably by token (tokenizer/token_index.h).
  void token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, Stream& stream);
  /// dposition[t] += sum of dh[b T + t] over b, in order.   dposition [P, H], dh [N, H].
  void position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, Stream& stream);

 private:
  virtual void do_zero(Tensor t, Stream& stream) = 0;
  virtual void do_copy(Tensor to, Tensor from, Stream& stream) = 0;
  virtual void do_add(Tensor out, Tensor a, Tensor b, Stream& stream) = 0;
  virtual void do_gelu_forward(Tensor y, Tensor x, Stream& stream) = 0;
  virtual void do_gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream) = 0;
  virtual void do_ordered_sum(Tensor out, Tensor pieces, Stream& stream) = 0;
  virtual void do_embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream) = 0;
  virtual void do_token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, Stream& stream) = 0;
  virtual void do_position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, Stream& stream) = 0;
};

}  // namespace tessera
