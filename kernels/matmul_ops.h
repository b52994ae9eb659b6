#pragma once
#include <string>

#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"
#include "kernels/tuning.h"

namespace tessera {

/// What distinguishes two linear ops: N rows, I inputs, O outputs, whether there is a bias (or its gradient), and of a weight gradient
/// whether it is added.
inline ShapeKey linear_shape(int64_t N, int64_t I, int64_t O, const Tensor& bias, DType dtype,
                             GradientWrite write = GradientWrite::Overwrite) {
  return {{N, I, O, bias.empty() ? 0 : 1, key_of(write)}, dtype};
}

/// Linear layers. N rows (tokens), I inputs, O outputs. Activations may be column ranges of wider matrices (row stride > columns).
/// x, y, weight, bias and their input gradients share one type (fp32, bf16, fp16); sums are made in fp32 and rounded once.
/// Every op only enqueues on `stream`: it allocates nothing and never waits. Wrong shapes and types throw InternalError.
class MatmulOps : public Tunable {
 public:
  /// y = x weight^T + bias.   y [N, O], x [N, I], weight [O, I], bias [O] or empty.
  void linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Stream& stream);
  /// dx = dy weight.   dx [N, I], dy [N, O], weight [O, I].
  void linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Stream& stream);
  /// dweight = or += dy^T x,  dbias = or += sum of dy over N.   dweight [O, I], dbias [O] or empty, both fp32, or both bf16 and rounded
  /// stochastically: element e of dweight by half word e of `rounding`, of dbias by half word O I + e.   dy [N, O], x [N, I].
  void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                              Stream& stream);

 private:
  virtual void do_linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Stream& stream) = 0;
  virtual void do_linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Stream& stream) = 0;
  virtual void do_linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                                         Stream& stream) = 0;
};

/// "oneDNN 3.2.0": the library behind the cpu device's matmuls, as it was loaded.
std::string matmul_library();
/// Whether this processor has instructions with which the library multiplies numbers of this 16-bit type. Nothing is timed.
bool processor_multiplies(DType dtype);

}  // namespace tessera
