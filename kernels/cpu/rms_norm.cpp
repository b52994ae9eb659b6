// Root-mean-square normalization: as layer_norm.cpp, without mean and bias.
#include <cmath>

#include "kernels/cpu/norm_loops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/norm_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

void rms_norm_forward_loop(const Tensor& h_rows, const Tensor& n_rows, const Tensor& rstd, const Tensor& residual_rows,
                           const Tensor& delta_rows, const Tensor& weight_row, float epsilon, int64_t begin, int64_t end) {
  with_storage(h_rows.dtype, [&]<class T>(T*) HWY_ATTR {
    const int64_t H = h_rows.columns();
    for (int64_t r = begin; r < end; r++) {
      const T* h = added_residual<T>(h_rows, residual_rows, delta_rows, r);
      const float squares = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR {
        const auto x = load(d, h + i);
        return hn::Mul(x, x);
      });
      const float s = 1 / std::sqrt(squares / static_cast<float>(H) + epsilon);
      transform<T>(H, {h, weight_row.as<T>()}, {row_of<T>(n_rows, r)},
                   [=](auto d, const auto& in, auto& out) HWY_ATTR { out[0] = hn::Mul(hn::Mul(in[0], hn::Set(d, s)), in[1]); });
      rstd.as<float>()[r] = s;
    }
  });
}

/// With g = dn weight and x = h rstd:   dx = dh + rstd (g - x mean of g x).
void rms_norm_backward_input_loop(const Tensor& dx_rows, const Tensor& dh_rows, const Tensor& dn_rows, const Tensor& h_rows,
                                  const Tensor& rstd, const Tensor& weight_row, int64_t begin, int64_t end) {
  with_storage(h_rows.dtype, [&]<class T>(T*) HWY_ATTR {
    const int64_t H = h_rows.columns();
    const T* weight = weight_row.as<T>();
    for (int64_t r = begin; r < end; r++) {
      const T *dh = row_of<T>(dh_rows, r), *dn = row_of<T>(dn_rows, r), *h = row_of<T>(h_rows, r);
      const float s = rstd.as<float>()[r];
      const float gx_sum = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR {
        return hn::Mul(hn::Mul(load(d, dn + i), load(d, weight + i)), hn::Mul(load(d, h + i), hn::Set(d, s)));
      });
      const float gx_mean = gx_sum / static_cast<float>(H);
      transform<T>(H, {dh, dn, h, weight}, {row_of<T>(dx_rows, r)}, [=](auto d, const auto& in, auto& out) HWY_ATTR {
        const auto g = hn::Mul(in[1], in[3]), x = hn::Mul(in[2], hn::Set(d, s));
        out[0] = hn::MulAdd(hn::NegMulAdd(x, hn::Set(d, gx_mean), g), hn::Set(d, s), in[0]);
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
HWY_EXPORT(rms_norm_forward_loop);
HWY_EXPORT(rms_norm_backward_input_loop);

void rms_norm_forward_rows(const Tensor& h, const Tensor& n, const Tensor& rstd, const Tensor& residual, const Tensor& delta,
                           const Tensor& weight, float epsilon, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(rms_norm_forward_loop)(h, n, rstd, residual, delta, weight, epsilon, begin, end);
}

void rms_norm_backward_input_rows(const Tensor& dx, const Tensor& dh, const Tensor& dn, const Tensor& h, const Tensor& rstd,
                                  const Tensor& weight, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(rms_norm_backward_input_loop)(dx, dh, dn, h, rstd, weight, begin, end);
}

}  // namespace tessera
#endif
