#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/elementwise_ops.h"
#include "kernels/update_ops.h"

/// The norm, elementwise and update ops as plain loops, in the order in which their formulas read: the specification. Scalar is double
/// for exact values and float for what plain code would give. Names and shapes as in kernels/*_ops.h.
namespace tessera::reference {

/// RMS norm has no mean.
template <class Scalar>
struct Norm {
  std::vector<Scalar> h, n, mean, rstd;
};

/// `delta` may be empty.
template <class Scalar>
Norm<Scalar> layer_norm_forward(const std::vector<Scalar>& residual, const std::vector<Scalar>& delta, const std::vector<Scalar>& weight,
                                const std::vector<Scalar>& bias, Scalar epsilon) {
  const size_t H = weight.size(), N = residual.size() / H;
  Norm<Scalar> out{residual, std::vector<Scalar>(N * H), std::vector<Scalar>(N), std::vector<Scalar>(N)};
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
std::vector<Scalar> layer_norm_backward_input(const std::vector<Scalar>& dh, const std::vector<Scalar>& dn, const Norm<Scalar>& forward,
                                              const std::vector<Scalar>& weight) {
  const size_t H = weight.size();
  std::vector<Scalar> dx = dh;
  for (size_t r = 0; r < forward.rstd.size(); r++) {
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
                                const Norm<Scalar>& forward) {
  const size_t H = dweight.size();
  for (size_t r = 0; r < forward.rstd.size(); r++) {
    for (size_t i = 0; i < H; i++) {
      dweight[i] += dn[r * H + i] * (forward.h[r * H + i] - forward.mean[r]) * forward.rstd[r];
      dbias[i] += dn[r * H + i];
    }
  }
}

template <class Scalar>
Norm<Scalar> rms_norm_forward(const std::vector<Scalar>& residual, const std::vector<Scalar>& delta, const std::vector<Scalar>& weight,
                              Scalar epsilon) {
  const size_t H = weight.size(), N = residual.size() / H;
  Norm<Scalar> out{residual, std::vector<Scalar>(N * H), {}, std::vector<Scalar>(N)};
  for (size_t r = 0; r < N; r++) {
    Scalar *h = &out.h[r * H], squares = 0;
    for (size_t i = 0; i < H; i++) {
      if (!delta.empty()) h[i] += delta[r * H + i];
      squares += h[i] * h[i];
    }
    const Scalar rstd = out.rstd[r] = 1 / std::sqrt(squares / static_cast<Scalar>(H) + epsilon);
    for (size_t i = 0; i < H; i++) out.n[r * H + i] = h[i] * rstd * weight[i];
  }
  return out;
}

template <class Scalar>
std::vector<Scalar> rms_norm_backward_input(const std::vector<Scalar>& dh, const std::vector<Scalar>& dn, const Norm<Scalar>& forward,
                                            const std::vector<Scalar>& weight) {
  const size_t H = weight.size();
  std::vector<Scalar> dx = dh;
  for (size_t r = 0; r < forward.rstd.size(); r++) {
    const auto x = [&](size_t i) { return forward.h[r * H + i] * forward.rstd[r]; };
    Scalar gx_mean = 0;
    for (size_t i = 0; i < H; i++) gx_mean += dn[r * H + i] * weight[i] * x(i);
    gx_mean /= static_cast<Scalar>(H);
    for (size_t i = 0; i < H; i++) dx[r * H + i] += forward.rstd[r] * (dn[r * H + i] * weight[i] - x(i) * gx_mean);
  }
  return dx;
}

/// dweight is added to.
template <class Scalar>
void rms_norm_backward_weight(std::vector<Scalar>& dweight, const std::vector<Scalar>& dn, const Norm<Scalar>& forward) {
  const size_t H = dweight.size();
  for (size_t r = 0; r < forward.rstd.size(); r++) {
    for (size_t i = 0; i < H; i++) dweight[i] += dn[r * H + i] * forward.h[r * H + i] * forward.rstd[r];
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

/// y [N, F], gate_up [N, 2 F].
template <class Scalar>
std::vector<Scalar> swiglu_forward(const std::vector<Scalar>& gate_up, size_t F) {
  std::vector<Scalar> y(gate_up.size() / 2);
  for (size_t k = 0; k < y.size(); k++) {
    const Scalar *gate = &gate_up[k / F * 2 * F + k % F], *up = gate + F;
    y[k] = *gate / (1 + std::exp(-*gate)) * *up;
  }
  return y;
}

template <class Scalar>
std::vector<Scalar> swiglu_backward(const std::vector<Scalar>& dy, const std::vector<Scalar>& gate_up, size_t F) {
  std::vector<Scalar> dgate_up(gate_up.size());
  for (size_t k = 0; k < dy.size(); k++) {
    const size_t at = k / F * 2 * F + k % F;
    const Scalar gate = gate_up[at], up = gate_up[at + F], sigmoid = 1 / (1 + std::exp(-gate));
    dgate_up[at] = dy[k] * up * sigmoid * (1 + gate * (1 - sigmoid));
    dgate_up[at + F] = dy[k] * gate * sigmoid;
  }
  return dgate_up;
}

/// Turns x, rows of heads of D channels each, by the angles of table [T, D]: cosines in the first D / 2 columns, sines in the others.
template <class Scalar>
std::vector<Scalar> rotary(const std::vector<Scalar>& x, size_t columns, const std::vector<Scalar>& table, size_t T, size_t D, Turn turn) {
  std::vector<Scalar> y(x.size());
  for (size_t k = 0; k < x.size(); k++) {
    const size_t channel = k % columns % D, i = channel % (D / 2), t = k / columns % T;
    const Scalar cosine = table[t * D + i], sine = table[t * D + D / 2 + i] * (turn == Turn::Forward ? 1 : -1);
    y[k] = channel == i ? cosine * x[k] - sine * x[k + D / 2] : cosine * x[k] + sine * x[k - D / 2];
  }
  return y;
}

/// `position_weight` may be empty.
template <class Scalar>
std::vector<Scalar> embedding_forward(const std::vector<int32_t>& tokens, const std::vector<Scalar>& token_weight,
                                      const std::vector<Scalar>& position_weight, size_t T, size_t H) {
  std::vector<Scalar> h(tokens.size() * H);
  for (size_t r = 0; r < tokens.size(); r++) {
    for (size_t i = 0; i < H; i++) {
      h[r * H + i] = token_weight[tokens[r] * H + i] + (position_weight.empty() ? 0 : position_weight[r % T * H + i]);
    }
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

template <class Scalar>
struct UpdateState {
  std::vector<Scalar> master, first, second;  // a state that the rule does not keep stays empty
  bool operator==(const UpdateState&) const = default;
};

/// Step `t` (from 1) of a rule. keep.master(value, segment, h) and keep.moment(...) are what storage makes of a value that is rounded by
/// half word h of the segment's stream.
template <class Scalar, class Keep>
void update(UpdateRule rule, UpdateState<Scalar>& state, const std::vector<Scalar>& gradient, std::span<const UpdateSegment> segments,
            UpdateHyper hyper, Scalar factor, int64_t t, const Keep& keep) {
  const Scalar b1 = hyper.beta1, b2 = hyper.beta2, rate = hyper.learning_rate, epsilon = hyper.epsilon;
  const Scalar m_correction = 1 - std::pow(b1, static_cast<Scalar>(t)), v_correction = 1 - std::pow(b2, static_cast<Scalar>(t));
  for (const UpdateSegment& segment : segments) {
    const Scalar decay = segment.decay;
    for (int64_t i = segment.begin; i < segment.end; i++) {
      const uint64_t half_word = 4 * static_cast<uint64_t>(segment.first + i - segment.begin);
      const Scalar w = state.master[i], g = factor * gradient[i] + (rule == UpdateRule::AdamW ? 0 : decay * w);
      Scalar step, first = 0, second = 0;
      if (rule == UpdateRule::Sgd) {
        step = g;
      } else if (rule == UpdateRule::Momentum) {
        step = first = b1 * state.first[i] + g;
      } else if (rule == UpdateRule::AdaGrad) {
        first = state.first[i] + g * g;
        step = g / (std::sqrt(first) + epsilon);
      } else {
        first = b1 * state.first[i] + (1 - b1) * g;
        second = b2 * state.second[i] + (1 - b2) * g * g;
        step = first / m_correction / (std::sqrt(second / v_correction) + epsilon) + (rule == UpdateRule::AdamW ? decay * w : 0);
      }
      state.master[i] = keep.master(w - rate * step, segment, half_word);
      if (!state.first.empty()) state.first[i] = keep.moment(first, segment, half_word + 1);
      if (!state.second.empty()) state.second[i] = keep.moment(second, segment, half_word + 2);
    }
  }
}

}  // namespace tessera::reference
