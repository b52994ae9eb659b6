#pragma once
#include <string>

#include "base/random.h"
#include "kernels/gradient_write.h"
#include "kernels/stream.h"
#include "kernels/tensor.h"
#include "kernels/tuning.h"

namespace tessera {

/// What distinguishes two linear ops: N rows, I inputs, O outputs, whether a bias is added, whether the weight is packed.
inline ShapeKey linear_shape(int64_t N, int64_t I, int64_t O, const Tensor& bias, const Tensor& packed, DType dtype) {
  return {{N, I, O, bias.empty() ? 0 : 1, packed.empty() ? 0 : 1}, dtype};
}
/// And two weight gradients: whether there is one of a bias, too, and whether they are added.
inline ShapeKey linear_gradient_shape(int64_t N, int64_t I, int64_t O, const Tensor& dbias, GradientWrite write, DType dtype) {
  return {{N, I, O, dbias.empty() ? 0 : 1, key_of(write)}, dtype};
}

/// The product that a packed weight serves: y = x weight^T, or dx = dy weight.
enum class PackedFor : uint8_t { Forward, BackwardInput };

/// Linear layers. N rows (tokens), I inputs, O outputs. Activations may be column ranges of wider matrices (row stride > columns).
/// x, y, weight, bias and their input gradients share one type (fp32, bf16, fp16); sums are made in fp32 and rounded once.
/// Every op only enqueues on `stream`: it allocates nothing and never waits. Wrong shapes and types throw InternalError.
class MatmulOps : public Tunable {
 public:
  /// y = x weight^T + bias.   y [N, O], x [N, I], weight [O, I], bias [O] or empty; packed: what pack_weight made of the weight, or empty.
  void linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Stream& stream, Tensor packed = {});
  /// dx = dy weight.   dx [N, I], dy [N, O], weight [O, I]; packed as in linear_forward.
  void linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Stream& stream, Tensor packed = {});
  /// dweight = or += dy^T x,  dbias = or += sum of dy over N.   dweight [O, I], dbias [O] or empty, both fp32, or both bf16 and rounded
  /// stochastically: element e of dweight by half word e of `rounding`, of dbias by half word O I + e.   dy [N, O], x [N, I].
  void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                              Stream& stream);
  /// packed = the weight in panels, as that product reads it fastest; made anew whenever the weight has changed.
  /// weight [O, I] bf16; packed [packed_elements(I, O)] bf16 (base/packed_weight.h). InternalError without processor_packs_weights().
  void pack_weight(Tensor packed, Tensor weight, PackedFor use, Stream& stream);

 private:
  virtual void do_linear_forward(Tensor y, Tensor x, Tensor weight, Tensor bias, Tensor packed, Stream& stream) = 0;
  virtual void do_linear_backward_input(Tensor dx, Tensor dy, Tensor weight, Tensor packed, Stream& stream) = 0;
  virtual void do_linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dy, Tensor x, GradientWrite write, RandomStream rounding,
                                         Stream& stream) = 0;
  virtual void do_pack_weight(Tensor packed, Tensor weight, PackedFor use, Stream& stream) = 0;
};

/// "oneDNN 3.2.0": the library behind the cpu device's matmuls, as it was loaded.
std::string matmul_library();
/// Whether this processor has instructions with which the library multiplies numbers of this 16-bit type. Nothing is timed.
bool processor_multiplies(DType dtype);
/// Whether this processor can multiply by packed weights, and whether that was clearly faster wherever it was measured (AMX: 20 to 30%).
bool processor_packs_weights();
bool processor_gains_by_packed_weights();

}  // namespace tessera
