#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/update_ops.h"

/// The norm, elementwise and update ops as plain loops, in the order in which their formulas read: the specification. Scalar is double
/// for exact values and float for what plain code would give. Names and shapes as in kernels/*_ops.h.
namespace tessera::reference {

template <class Scalar>
struct LayerNorm {
  std::vector<Scalar> h, n, mean, rstd;
};

/// `delta` may be empty.
template <class Scalar>
LayerNorm<Scalar> layer_norm_forward(const std::vector<Scalar>& residual, const std::vector<Scalar>& delta,
                                     const std::vector<Scalar>& weight, const std::vector<Scalar>& bias, Scalar epsilon) {
  const size_t H = weight.size(), N = residual.size() / H;
  LayerNorm<Scalar> out{residual, std::vector<Scalar>(N * H), std::vector<Scalar>(N), std::vector<Scalar>(N)};
  for (size_t r = 0; r < N; r++) {
    Scalar *h = &out.h[r * H], sum = 0, squares = 0;
    for (size_t i = 0; i < H; i++) {
      if (!delta.empty()) h[i] += delta[r * H + i];
      sum += h[i];
    }
    const Scalar mean = out.mean[r] = sum / static_cast<Scalar>(H);
    for (size_t i = 0; i < H; i++) squares += (h[i] - mean) * (h[i] - mean);
    const Scalar rstd = out.rstd[r] = 1 / std::sqrt(squares / static_cast<Scalar>(H) + epsilon);
    for (size_t i = 0; i < H; i++) out.n[r * H + i] = (h[i] - mean) * rstd * weight[i] + bias[i];
  }
  return out;
}

template <class Scalar>
std::vector<Scalar> layer_norm_backward_input(const std::vector<Scalar>& dh, const std::vector<Scalar>& dn,
                                              const LayerNorm<Scalar>& forward, const std::vector<Scalar>& weight) {
  const size_t H = weight.size();
  std::vector<Scalar> dx = dh;
  for (size_t r = 0; r < forward.mean.size(); r++) {
    const auto x = [&](size_t i) { return (forward.h[r * H + i] - forward.mean[r]) * forward.rstd[r]; };
    Scalar g_mean = 0, gx_mean = 0;
    for (size_t i = 0; i < H; i++) {
      g_mean += dn[r * H + i] * weight[i];
      gx_mean += dn[r * H + i] * weight[i] * x(i);
    }
    g_mean /= static_cast<Scalar>(H), gx_mean /= static_cast<Scalar>(H);
    for (size_t i = 0; i < H; i++) dx[r * H + i] += forward.rstd[r] * (dn[r * H + i] * weight[i] - g_mean - x(i) * gx_mean);
  }
  return dx;
}

/// dweight and dbias are added to.
template <class Scalar>
void layer_norm_backward_weight(std::vector<Scalar>& dweight, std::vector<Scalar>& dbias, const std::vector<Scalar>& dn,
                                const LayerNorm<Scalar>& forward) {
  const size_t H = dweight.size();
  for (size_t r = 0; r < forward.mean.size(); r++) {
    for (size_t i = 0; i < H; i++) {
      dweight[i] += dn[r * H + i] * (forward.h[r * H + i] - forward.mean[r]) * forward.rstd[r];
      dbias[i] += dn[r * H + i];
    }
  }
}

template <class Scalar>
Scalar gelu(Scalar x) {
  const Scalar root = static_cast<Scalar>(std::sqrt(2 / M_PI)), cubic = static_cast<Scalar>(0.044715);
  return x / 2 * (1 + std::tanh(root * (x + cubic * x * x * x)));
}

template <class Scalar>
Scalar gelu_derivative(Scalar x) {
  const Scalar root = static_cast<Scalar>(std::sqrt(2 / M_PI)), cubic = static_cast<Scalar>(0.044715);
  const Scalar t = std::tanh(root * (x + cubic * x * x * x));
  return (1 + t) / 2 + x / 2 * (1 - t * t) * root * (1 + 3 * cubic * x * x);
}

template <class Scalar>
std::vector<Scalar> embedding_forward(const std::vector<int32_t>& tokens, const std::vector<Scalar>& token_weight,
                                      const std::vector<Scalar>& position_weight, size_t T, size_t H) {
  std::vector<Scalar> h(tokens.size() * H);
  for (size_t r = 0; r < tokens.size(); r++) {
    for (size_t i = 0; i < H; i++) h[r * H + i] = token_weight[tokens[r] * H + i] + position_weight[r % T * H + i];
  }
  return h;
}

/// dtoken and dposition are added to.
template <class Scalar>
void embedding_backward(std::vector<Scalar>& dtoken, std::vector<Scalar>& dposition, const std::vector<Scalar>& dh,
                        const std::vector<int32_t>& tokens, size_t T, size_t H) {
  for (size_t r = 0; r < tokens.size(); r++) {
    for (size_t i = 0; i < H; i++) {
      dtoken[tokens[r] * H + i] += dh[r * H + i];
      dposition[r % T * H + i] += dh[r * H + i];
    }
  }
}

/// Weight and moments after step `t` (from 1) of AdamW.
template <class Scalar>
void adamw(std::vector<Scalar>& weight, std::vector<Scalar>& m, std::vector<Scalar>& v, const std::vector<Scalar>& gradient,
           std::span<const UpdateSegment> segments, AdamWHyper hyper, Scalar clip_scale, int64_t t) {
  const Scalar b1 = hyper.beta1, b2 = hyper.beta2, rate = hyper.learning_rate, epsilon = hyper.epsilon;
  const Scalar m_correction = 1 - std::pow(b1, static_cast<Scalar>(t)), v_correction = 1 - std::pow(b2, static_cast<Scalar>(t));
  for (const UpdateSegment& segment : segments) {
    for (int64_t i = segment.begin; i < segment.end; i++) {
      const Scalar g = clip_scale * gradient[i];
      m[i] = b1 * m[i] + (1 - b1) * g;
      v[i] = b2 * v[i] + (1 - b2) * g * g;
      weight[i] -=
          rate * (m[i] / m_correction / (std::sqrt(v[i] / v_correction) + epsilon) + static_cast<Scalar>(segment.decay) * weight[i]);
    }
  }
}

}  // namespace tessera::reference
