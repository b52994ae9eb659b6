// GELU and SwiGLU. Both are x / (1 + e^-z), up to a factor, which needs one exponential and does not cancel where x is negative:
//   0.5 x (1 + tanh u) = x / (1 + e^-2u)  with  u = sqrt(2/pi) (x + 0.044715 x^3),      x sigmoid(x) = x / (1 + e^-x).
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activations.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

constexpr float log2_e = 1.4426950408889634f;
constexpr float gelu_linear = 1.5957691216057308f;  // 2 sqrt(2/pi):   2u = x (linear + cubic x^2)
constexpr float gelu_cubic = 1.5957691216057308f * 0.044715f;

/// 2^t for t within [-126, 122]; what lies outside counts as the nearer end, so that products with 1 / (1 + 2^t) stay numbers.
/// 2^t = 2^n 2^f with n = round(t), |f| <= 1/2, and a polynomial of degree 6 (Remez): within 2^-28 but for its own roundings.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V clamped_power_of_2(D d, V t) {
  const hn::RebindToSigned<D> di;
  t = hn::Max(hn::Set(d, -126.0f), hn::Min(hn::Set(d, 122.0f), t));  // NaN, the second operand, passes
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits; 127 more make it an exponent once shifted.
  const V magic = hn::Set(d, 12582912.0f + 127.0f);
  const V shifted = hn::Add(t, magic);
  const V f = hn::Sub(t, hn::Sub(shifted, magic));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  // Powers of f^2 (Estrin) wait for each other less than powers of f (Horner).
  const V square = hn::Mul(f, f);
  const V p1 = hn::MulAdd(hn::Set(d, 0.24022652208805084f), f, hn::Set(d, 0.6931472420692444f));
  const V p3 = hn::MulAdd(hn::Set(d, 0.009617692790925503f), f, hn::Set(d, 0.055503103882074356f));
  const V p5 = hn::MulAdd(hn::Set(d, 0.00015594677824992687f), f, hn::Set(d, 0.0013406643411144614f));
  const V beyond_one = hn::Mul(hn::MulAdd(hn::MulAdd(p5, square, p3), square, p1), f);
  return hn::MulAdd(beyond_one, power, power);
}

/// e^-2u.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_exponential(D d, V x, V square) {
  return clamped_power_of_2(d, hn::Mul(x, hn::MulAdd(square, hn::Set(d, -log2_e * gelu_cubic), hn::Set(d, -log2_e * gelu_linear))));
}

void gelu_forward_loop(const Tensor& y, const Tensor& x, int64_t begin, int64_t end) {
  with_storage(x.dtype, [&]<class T>(T*) HWY_ATTR {
    transform<T>(end - begin, {x.as<T>() + begin}, {y.as<T>() + begin}, [](auto d, const auto& in, auto& out) HWY_ATTR {
      const auto e = gelu_exponential(d, in[0], hn::Mul(in[0], in[0]));
      out[0] = hn::Div(in[0], hn::Add(hn::Set(d, 1.0f), e));
    });
  });
}

/// With f = 1 / (1 + e):   y' = f + x f (1 - f) (2u)',   and 1 - f = e f does not cancel.
void gelu_backward_loop(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t begin, int64_t end) {
  with_storage(x.dtype, [&]<class T>(T*) HWY_ATTR {
    transform<T>(end - begin, {dy.as<T>() + begin, x.as<T>() + begin}, {dx.as<T>() + begin},
                 [](auto d, const auto& in, auto& out) HWY_ATTR {
                   const auto one = hn::Set(d, 1.0f), value = in[1], square = hn::Mul(value, value);
                   const auto e = gelu_exponential(d, value, square);
                   const auto f = hn::Div(one, hn::Add(one, e));
                   const auto slope = hn::MulAdd(square, hn::Set(d, 3 * gelu_cubic), hn::Set(d, gelu_linear));
                   const auto derivative = hn::MulAdd(hn::Mul(value, slope), hn::Mul(hn::Mul(e, f), f), f);
                   out[0] = hn::Mul(in[0], derivative);
                 });
  });
}

void swiglu_forward_loop(const Tensor& y, const Tensor& gate_up, int64_t begin, int64_t end) {
  const int64_t F = y.columns();
  with_storage(y.dtype, [&]<class T>(T*) HWY_ATTR {
    for (int64_t r = begin; r < end; r++) {
      const T *gate = gate_up.as<T>() + r * 2 * F, *up = gate + F;
      transform<T>(F, {gate, up}, {y.as<T>() + r * F}, [](auto d, const auto& in, auto& out) HWY_ATTR {
        const auto e = clamped_power_of_2(d, hn::Mul(in[0], hn::Set(d, -log2_e)));
        out[0] = hn::Mul(hn::Div(in[0], hn::Add(hn::Set(d, 1.0f), e)), in[1]);
      });
    }
  });
}

/// With f = sigmoid(gate) = 1 / (1 + e):   dup = dy gate f,   dgate = dy up f (1 + gate (1 - f)).
void swiglu_backward_loop(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, int64_t begin, int64_t end) {
  const int64_t F = dy.columns();
  with_storage(dy.dtype, [&]<class T>(T*) HWY_ATTR {
    for (int64_t r = begin; r < end; r++) {
      const T *gate = gate_up.as<T>() + r * 2 * F, *up = gate + F;
      T *dgate = dgate_up.as<T>() + r * 2 * F, *dup = dgate + F;
      transform<T>(F, {dy.as<T>() + r * F, gate, up}, {dgate, dup}, [](auto d, const auto& in, auto& out) HWY_ATTR {
        const auto one = hn::Set(d, 1.0f), g = in[1];
        const auto e = clamped_power_of_2(d, hn::Mul(g, hn::Set(d, -log2_e)));
        const auto f = hn::Div(one, hn::Add(one, e));
        const auto dy_f = hn::Mul(in[0], f);
        out[0] = hn::Mul(hn::Mul(dy_f, in[2]), hn::MulAdd(g, hn::Mul(e, f), one));
        out[1] = hn::Mul(dy_f, g);
      });
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {
HWY_EXPORT(gelu_forward_loop);
HWY_EXPORT(gelu_backward_loop);
HWY_EXPORT(swiglu_forward_loop);
HWY_EXPORT(swiglu_backward_loop);
}  // namespace

void gelu_forward_range(const Tensor& y, const Tensor& x, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(gelu_forward_loop)(y, x, begin, end);
}
void gelu_backward_range(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(gelu_backward_loop)(dx, dy, x, begin, end);
}
void swiglu_forward_rows(const Tensor& y, const Tensor& gate_up, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_forward_loop)(y, gate_up, begin, end);
}
void swiglu_backward_rows(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_backward_loop)(dgate_up, dy, gate_up, begin, end);
}

}  // namespace tessera
#endif
