#pragma once
#include "kernels/stream.h"
#include "kernels/tensor.h"
#include "kernels/tuning.h"

namespace tessera {

/// B sequences of T tokens, A query heads, K key/value heads (A a multiple of K), D head width.
struct AttentionShape {
  int64_t B, T, A, K, D;
};

/// What distinguishes two attention ops.
inline ShapeKey attention_shape(const AttentionShape& shape, DType dtype) { return {{shape.B, shape.T, shape.A, shape.K, shape.D}, dtype}; }

/// Causal attention that never holds a T x T matrix (online softmax in tiles: Dao et al. 2022, arXiv:2205.14135).
/// Row b T + t of a matrix is token t of sequence b; q, k, v may be column ranges of one fused [B T, (A + 2K) D] matrix.
/// Matrices share one type (fp32, bf16, fp16); sums, statistics and the softmax are fp32. D is a multiple of 8 up to 256.
class AttentionOps : public Tunable {
 public:
  /// y = softmax(q k^T / sqrt(D), causal) v.   y [B T, A D], lse [B, A, T] fp32 (log of each row's sum, for the backward),
  /// q [B T, A D], k, v [B T, K D].
  void attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream& stream);
  /// dq [B T, A D], dk, dv [B T, K D] are overwritten; dy, y [B T, A D]; lse [B, A, T] from the forward; delta [B, A, T] fp32 is scratch
  /// (row sums of dy y).
  void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor delta, Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse,
                          AttentionShape shape, Stream& stream);

 private:
  virtual void do_attention_forward(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, AttentionShape shape, Stream& stream) = 0;
  virtual void do_attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor delta, Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y,
                                     Tensor lse, AttentionShape shape, Stream& stream) = 0;
};

}  // namespace tessera
