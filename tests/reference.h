#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/attention_ops.h"

/// The ops as plain loops, in the order in which their formulas read: the specification. Scalar is double for exact values and
/// float for what plain code would give. Names and shapes as in kernels/*_ops.h.
namespace tessera::reference {

template <class Scalar>
using Values = std::vector<Scalar>;

template <class Scalar>
Values<Scalar> linear_forward(const Values<Scalar>& x, const Values<Scalar>& weight, const Values<Scalar>& bias, int64_t N, int64_t I,
                              int64_t O) {
  Values<Scalar> y(N * O);
  for (int64_t n = 0; n < N; n++) {
    for (int64_t o = 0; o < O; o++) {
      Scalar sum = bias.empty() ? 0 : bias[o];
      for (int64_t i = 0; i < I; i++) sum += x[n * I + i] * weight[o * I + i];
      y[n * O + o] = sum;
    }
  }
  return y;
}

template <class Scalar>
Values<Scalar> linear_backward_input(const Values<Scalar>& dy, const Values<Scalar>& weight, int64_t N, int64_t I, int64_t O) {
  Values<Scalar> dx(N * I);
  for (int64_t n = 0; n < N; n++) {
    for (int64_t i = 0; i < I; i++) {
      for (int64_t o = 0; o < O; o++) dx[n * I + i] += dy[n * O + o] * weight[o * I + i];
    }
  }
  return dx;
}

/// dweight and dbias are added to.
template <class Scalar>
void linear_backward_weight(Values<Scalar>& dweight, Values<Scalar>& dbias, const Values<Scalar>& dy, const Values<Scalar>& x, int64_t N,
                            int64_t I, int64_t O) {
  for (int64_t n = 0; n < N; n++) {
    for (int64_t o = 0; o < O; o++) {
      for (int64_t i = 0; i < I; i++) dweight[o * I + i] += dy[n * O + o] * x[n * I + i];
      if (!dbias.empty()) dbias[o] += dy[n * O + o];
    }
  }
}

template <class Scalar>
struct Attention {
  Values<Scalar> y, lse;
};

template <class Scalar>
struct AttentionGradients {
  Values<Scalar> dq, dk, dv;
};

/// Where head `head` of token (b, t) starts in a matrix with `heads` heads.
inline int64_t head_at(const AttentionShape& s, int64_t b, int64_t t, int64_t heads, int64_t head) {
  return ((b * s.T + t) * heads + head) * s.D;
}

template <class Scalar>
Scalar dot_of_heads(const Values<Scalar>& a, int64_t a_at, const Values<Scalar>& b, int64_t b_at, int64_t D) {
  Scalar sum = 0;
  for (int64_t d = 0; d < D; d++) sum += a[a_at + d] * b[b_at + d];
  return sum;
}

template <class Scalar>
Attention<Scalar> attention_forward(const Values<Scalar>& q, const Values<Scalar>& k, const Values<Scalar>& v, const AttentionShape& s) {
  Attention<Scalar> out{Values<Scalar>(s.B * s.T * s.A * s.D), Values<Scalar>(s.B * s.A * s.T)};
  const Scalar scale = 1 / std::sqrt(static_cast<Scalar>(s.D));
  for (int64_t b = 0; b < s.B; b++) {
    for (int64_t a = 0; a < s.A; a++) {
      const int64_t shared = a / (s.A / s.K);  // the key/value head of this query head
      for (int64_t t = 0; t < s.T; t++) {
        const int64_t row = head_at(s, b, t, s.A, a);
        Values<Scalar> scores(t + 1);
        Scalar largest = -INFINITY, sum = 0;
        for (int64_t u = 0; u <= t; u++) {
          scores[u] = scale * dot_of_heads(q, row, k, head_at(s, b, u, s.K, shared), s.D);
          largest = std::max(largest, scores[u]);
        }
        for (int64_t u = 0; u <= t; u++) sum += std::exp(scores[u] - largest);
        out.lse[(b * s.A + a) * s.T + t] = largest + std::log(sum);
        for (int64_t u = 0; u <= t; u++) {
          const Scalar p = std::exp(scores[u] - largest) / sum;
          for (int64_t d = 0; d < s.D; d++) out.y[row + d] += p * v[head_at(s, b, u, s.K, shared) + d];
        }
      }
    }
  }
  return out;
}

/// With `magnitudes` every term of a gradient is made positive: what relative errors of p and ds are multiplied by.
template <class Scalar>
AttentionGradients<Scalar> attention_backward(const Values<Scalar>& dy, const Values<Scalar>& q, const Values<Scalar>& k,
                                              const Values<Scalar>& v, const Attention<Scalar>& forward, const AttentionShape& s,
                                              bool magnitudes = false) {
  const auto term = [=](Scalar x) { return magnitudes ? std::abs(x) : x; };
  AttentionGradients<Scalar> out{Values<Scalar>(q.size()), Values<Scalar>(k.size()), Values<Scalar>(v.size())};
  const Scalar scale = 1 / std::sqrt(static_cast<Scalar>(s.D));
  for (int64_t b = 0; b < s.B; b++) {
    for (int64_t a = 0; a < s.A; a++) {
      for (int64_t t = 0; t < s.T; t++) {
        const int64_t row = head_at(s, b, t, s.A, a);
        const Scalar delta = dot_of_heads(dy, row, forward.y, row, s.D);
        for (int64_t u = 0; u <= t; u++) {
          const int64_t key = head_at(s, b, u, s.K, a / (s.A / s.K));
          const Scalar p = std::exp(scale * dot_of_heads(q, row, k, key, s.D) - forward.lse[(b * s.A + a) * s.T + t]);
          const Scalar ds = scale * p * (dot_of_heads(dy, row, v, key, s.D) - delta);
          for (int64_t d = 0; d < s.D; d++) {
            out.dq[row + d] += term(ds * k[key + d]);
            out.dk[key + d] += term(ds * q[row + d]);
            out.dv[key + d] += term(p * dy[row + d]);
          }
        }
      }
    }
  }
  return out;
}

/// `logits` become their gradient; the losses are returned.
template <class Scalar>
Values<Scalar> cross_entropy(Values<Scalar>& logits, const std::vector<int32_t>& targets, int64_t V, Scalar scale) {
  Values<Scalar> losses(targets.size());
  for (size_t r = 0; r < targets.size(); r++) {
    Scalar* row = &logits[r * V];
    Scalar largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < V; i++) largest = std::max(largest, row[i]);
    for (int64_t i = 0; i < V; i++) sum += std::exp(row[i] - largest);
    losses[r] = largest + std::log(sum) - row[targets[r]];
    for (int64_t i = 0; i < V; i++) row[i] = scale * (std::exp(row[i] - largest) / sum - (i == targets[r] ? 1 : 0));
  }
  return losses;
}

}  // namespace tessera::reference
