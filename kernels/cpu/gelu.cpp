// GELU in the tanh form:   y = 0.5 x (1 + tanh u) = x / (1 + e^-2u),   u = sqrt(2/pi) (x + 0.044715 x^3).
// The second form needs one exponential and does not cancel where x is negative.
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gelu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

constexpr float gelu_linear = 1.5957691216057308f;  // 2 sqrt(2/pi):   2u = x (linear + cubic x^2)
constexpr float gelu_cubic = 1.5957691216057308f * 0.044715f;

/// e^-2u, at most 1e37, so that products with 1 / (1 + e^-2u) stay numbers.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_exponential(D d, V x, V square) {
  const V two_u = hn::Mul(x, hn::MulAdd(square, hn::Set(d, gelu_cubic), hn::Set(d, gelu_linear)));
  return hn::Min(hn::Set(d, 1e37f), exp(d, hn::Neg(two_u)));
}

void gelu_forward_loop(float* y, const float* x, int64_t n) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    const auto e = gelu_exponential(d, value, hn::Mul(value, value));
    hn::StoreU(hn::Div(value, hn::Add(hn::Set(d, 1.0f), e)), d, y + i);
  });
}

/// With f = 1 / (1 + e):   y' = f + x f (1 - f) (2u)',   and 1 - f = e f does not cancel.
void gelu_backward_loop(float* dx, const float* dy, const float* x, int64_t n) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    const auto one = hn::Set(d, 1.0f), value = hn::LoadU(d, x + i), square = hn::Mul(value, value);
    const auto e = gelu_exponential(d, value, square);
    const auto f = hn::Div(one, hn::Add(one, e));
    const auto slope = hn::MulAdd(square, hn::Set(d, 3 * gelu_cubic), hn::Set(d, gelu_linear));
    const auto derivative = hn::MulAdd(hn::Mul(value, slope), hn::Mul(hn::Mul(e, f), f), f);
    hn::StoreU(hn::Mul(hn::LoadU(d, dy + i), derivative), d, dx + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(gelu_forward_loop);
HWY_EXPORT(gelu_backward_loop);

void gelu_forward_range(float* y, const float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(gelu_forward_loop)(y, x, n); }
void gelu_backward_range(float* dx, const float* dy, const float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(gelu_backward_loop)(dx, dy, x, n); }

}  // namespace tessera
#endif
