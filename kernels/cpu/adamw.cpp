// AdamW: one pass over weight, moments and gradient, at the speed of memory.
#include "kernels/cpu/targets.h"
#include "kernels/cpu/update_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/adamw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

void adamw_loop(float* weight, float* m, float* v, const float* gradient, int64_t n, const AdamWFactors& factors) {
  const AdamWFactors f = factors;  // a copy: stores to the tensors cannot change it
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::Mul(hn::Set(d, f.clip_scale), hn::LoadU(d, gradient + i));
    const auto new_m = hn::MulAdd(hn::Set(d, f.beta1), hn::LoadU(d, m + i), hn::Mul(hn::Set(d, f.one_minus_beta1), g));
    const auto new_v = hn::MulAdd(hn::Set(d, f.beta2), hn::LoadU(d, v + i), hn::Mul(hn::Set(d, f.one_minus_beta2), hn::Mul(g, g)));
    const auto denominator = hn::MulAdd(hn::Sqrt(new_v), hn::Set(d, f.v_scale), hn::Set(d, f.epsilon));
    const auto w = hn::LoadU(d, weight + i);
    const auto step = hn::MulAdd(hn::Set(d, f.decay), w, hn::Div(hn::Mul(hn::Set(d, f.m_scale), new_m), denominator));
    hn::StoreU(new_m, d, m + i);
    hn::StoreU(new_v, d, v + i);
    hn::StoreU(hn::Sub(w, step), d, weight + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(adamw_loop);

void adamw_range(float* weight, float* m, float* v, const float* gradient, int64_t n, const AdamWFactors& factors) {
  HWY_DYNAMIC_DISPATCH(adamw_loop)(weight, m, v, gradient, n, factors);
}

}  // namespace tessera
#endif
