#pragma once
#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// Rotary positions: channels i and i + D/2 of a head are a pair that turns by t theta^(-2i/D) at position t.
/// Su et al. 2021, arXiv:2104.09864, in the half-split pairing of LLaMA's published weights.
enum class Turn : uint8_t { Forward, Backward };

/// Ops that touch each element once. N rows, H hidden, F MLP width, V vocabulary, P positions, T tokens of a sequence, D head width.
/// Tensors without a stated type are activations or weights: fp32, bf16 or fp16, all of one op alike; arithmetic is in fp32, rounded once.
/// Gradients of weights are fp32, or bf16 rounded stochastically: element e of the weight by half word e of `rounding`.
class ElementwiseOps {
 public:
  virtual ~ElementwiseOps() = default;
  /// t = 0, contiguous.
  void zero(Tensor t, Stream& stream);
  /// to = from, contiguous, same shape and dtype.
  void copy(Tensor to, Tensor from, Stream& stream);
  /// to = factor * from, contiguous, same shape; each of fp32, bf16, fp16, rounded to nearest. Where the types are one, to may be from.
  void cast(Tensor to, Tensor from, float factor, Stream& stream);
  /// out = a + b, same shape; out may be a or b.
  void add(Tensor out, Tensor a, Tensor b, Stream& stream);
  /// y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).      Hendrycks & Gimpel 2016, arXiv:1606.08415, the tanh form of GPT-2
  void gelu_forward(Tensor y, Tensor x, Stream& stream);
  /// dx = dy gelu'(x); dx may be dy.
  void gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream);
  /// y = gate sigmoid(gate) up.   y [N, F], gate_up [N, 2 F]: gate in the first F columns.      Shazeer 2020, arXiv:2002.05202
  void swiglu_forward(Tensor y, Tensor gate_up, Stream& stream);
  /// dgate_up [N, 2 F] from dy [N, F]; dgate_up may be gate_up.
  void swiglu_backward(Tensor dgate_up, Tensor dy, Tensor gate_up, Stream& stream);
  /// Turns each head of x in place, or back (the gradient's direction).   x [N, heads D], rows may lie apart; row r stands at position r % T.
  /// table [T, D] fp32: cosines in the first D/2 columns, sines in the others (model/rotary.h).   N a multiple of T, D even.
  void rotary(Tensor x, Tensor table, Turn turn, Stream& stream);
  /// out[i] = pieces[0][i] + pieces[1][i] + ... in rank order, summed in fp32, rounded to nearest.   out [n], pieces [R, n], both fp32 or
  /// both bf16; out may not lie in pieces.
  void ordered_sum(Tensor out, Tensor pieces, Stream& stream);
  /// h[r] = token_weight[tokens[r]] + position_weight[r % T].   h [N, H], tokens [N] int32, token_weight [V, H], position_weight [P, H] or
  /// empty, N a multiple of T.
  void embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream);
  /// dtoken[v] = or += sum of dh[r] over the r with tokens[r] = v, in row order, without float atomics; overwriting, 0 where there is none.
  /// dtoken [V, H], dh [N, H], tokens [N], order [N]: row numbers sorted stably by token (tokenizer/token_index.h).
  void token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, GradientWrite write, RandomStream rounding,
                                Stream& stream);
  /// dposition[t] = or += sum of dh[b T + t] over b, in order; overwriting, 0 from t = T on.   dposition [P, H], dh [N, H].
  void position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, GradientWrite write, RandomStream rounding, Stream& stream);

 private:
  virtual void do_zero(Tensor t, Stream& stream) = 0;
  virtual void do_copy(Tensor to, Tensor from, Stream& stream) = 0;
  virtual void do_cast(Tensor to, Tensor from, float factor, Stream& stream) = 0;
  virtual void do_add(Tensor out, Tensor a, Tensor b, Stream& stream) = 0;
  virtual void do_gelu_forward(Tensor y, Tensor x, Stream& stream) = 0;
  virtual void do_gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream& stream) = 0;
  virtual void do_swiglu_forward(Tensor y, Tensor gate_up, Stream& stream) = 0;
  virtual void do_swiglu_backward(Tensor dgate_up, Tensor dy, Tensor gate_up, Stream& stream) = 0;
  virtual void do_rotary(Tensor x, Tensor table, Turn turn, Stream& stream) = 0;
  virtual void do_ordered_sum(Tensor out, Tensor pieces, Stream& stream) = 0;
  virtual void do_embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream& stream) = 0;
  virtual void do_token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, GradientWrite write,
                                           RandomStream rounding, Stream& stream) = 0;
  virtual void do_position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, GradientWrite write, RandomStream rounding,
                                              Stream& stream) = 0;
};

}  // namespace tessera
