// Layer normalization, a row at a time: the passes after the first find the row in the nearest caches.
#include <cmath>

#include "kernels/cpu/norm_loops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/norm_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

void layer_norm_forward_loop(const Tensor& h_rows, const Tensor& n_rows, const Tensor& mean, const Tensor& rstd,
                             const Tensor& residual_rows, const Tensor& delta_rows, const Tensor& weight_row, const Tensor& bias_row,
                             float epsilon, int64_t begin, int64_t end) {
  with_storage(h_rows.dtype, [&]<class T>(T*) HWY_ATTR {
    const int64_t H = h_rows.columns();
    const float width = static_cast<float>(H);
    const T *weight = weight_row.as<T>(), *bias = bias_row.as<T>();
    for (int64_t r = begin; r < end; r++) {
      const T* h = added_residual<T>(h_rows, residual_rows, delta_rows, r);
      const float m = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR { return load(d, h + i); }) / width;
      // The mean of squares less the square of the mean would cancel where the mean is large.
      const float squares = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR {
        const auto x = hn::Sub(load(d, h + i), hn::Set(d, m));
        return hn::Mul(x, x);
      });
      const float s = 1 / std::sqrt(squares / width + epsilon);
      transform<T>(H, {h, weight, bias}, {row_of<T>(n_rows, r)}, [=](auto d, const auto& in, auto& out) HWY_ATTR {
        const auto x = hn::Mul(hn::Sub(in[0], hn::Set(d, m)), hn::Set(d, s));
        out[0] = hn::MulAdd(x, in[1], in[2]);
      });
      mean.as<float>()[r] = m;
      rstd.as<float>()[r] = s;
    }
  });
}

/// With g = dn weight and x = (h - mean) rstd:   dx = dh + rstd (g - mean of g - x mean of g x).
void layer_norm_backward_input_loop(const Tensor& dx_rows, const Tensor& dh_rows, const Tensor& dn_rows, const Tensor& h_rows,
                                    const Tensor& mean, const Tensor& rstd, const Tensor& weight_row, int64_t begin, int64_t end) {
  with_storage(h_rows.dtype, [&]<class T>(T*) HWY_ATTR {
    const int64_t H = h_rows.columns();
    const float width = static_cast<float>(H);
    const T* weight = weight_row.as<T>();
    for (int64_t r = begin; r < end; r++) {
      const T *dh = row_of<T>(dh_rows, r), *dn = row_of<T>(dn_rows, r), *h = row_of<T>(h_rows, r);
      const float m = mean.as<float>()[r], s = rstd.as<float>()[r];
      const float g_sum = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR { return hn::Mul(load(d, dn + i), load(d, weight + i)); });
      const float gx_sum = sum_of_terms(H, [=](auto d, int64_t i) HWY_ATTR {
        const auto g = hn::Mul(load(d, dn + i), load(d, weight + i));
        return hn::Mul(g, hn::Mul(hn::Sub(load(d, h + i), hn::Set(d, m)), hn::Set(d, s)));
      });
      const float g_mean = g_sum / width, gx_mean = gx_sum / width;
      transform<T>(H, {dh, dn, h, weight}, {row_of<T>(dx_rows, r)}, [=](auto d, const auto& in, auto& out) HWY_ATTR {
        const auto g = hn::Mul(in[1], in[3]);
        const auto x = hn::Mul(hn::Sub(in[2], hn::Set(d, m)), hn::Set(d, s));
        const auto through_norm = hn::NegMulAdd(x, hn::Set(d, gx_mean), hn::Sub(g, hn::Set(d, g_mean)));
        out[0] = hn::MulAdd(through_norm, hn::Set(d, s), in[0]);
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
HWY_EXPORT(layer_norm_forward_loop);
HWY_EXPORT(layer_norm_backward_input_loop);

void layer_norm_forward_rows(const Tensor& h, const Tensor& n, const Tensor& mean, const Tensor& rstd, const Tensor& residual,
                             const Tensor& delta, const Tensor& weight, const Tensor& bias, float epsilon, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(layer_norm_forward_loop)(h, n, mean, rstd, residual, delta, weight, bias, epsilon, begin, end);
}

void layer_norm_backward_input_rows(const Tensor& dx, const Tensor& dh, const Tensor& dn, const Tensor& h, const Tensor& mean,
                                    const Tensor& rstd, const Tensor& weight, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(layer_norm_backward_input_loop)(dx, dh, dn, h, mean, rstd, weight, begin, end);
}

}  // namespace tessera
#endif
