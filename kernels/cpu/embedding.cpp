// The embedding and its backward: each thread owns whole tokens, so a row of the table is summed by one thread, in row order.
#include <algorithm>

#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/gradient-inl.h"
#include "kernels/cpu/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

void embedding_forward_loop(const Tensor& h, const Tensor& tokens, const Tensor& token_weight, const Tensor& position_weight, int64_t T,
                            int64_t begin, int64_t end) {
  const int64_t H = h.columns();
  const int32_t* token_of = tokens.as<int32_t>();
  with_storage(h.dtype, [&]<class S>(S*) HWY_ATTR {
    for (int64_t r = begin; r < end; r++) {
      const S* token = token_weight.as<S>() + token_of[r] * H;
      S* to = h.as<S>() + r * H;
      if (position_weight.empty()) {
        std::copy_n(token, H, to);
      } else {
        transform<S>(H, {token, position_weight.as<S>() + r % T * H}, {to},
                     [](auto, const auto& in, auto& out) HWY_ATTR { out[0] = hn::Add(in[0], in[1]); });
      }
    }
  });
}

/// gradient[i] = or += row(0)[i] + row(1)[i] + ... for n elements, `count` rows: summed in registers before they meet the gradient.
/// bf16 is rounded by half words first + i.
template <class G, class Row>
void sum_rows(G* gradient, int64_t n, int64_t count, Row row, GradientWrite write, const RandomStream& rounding, int64_t first) {
  constexpr int64_t block = 512;
  HWY_ALIGN float sums[block];
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t size = std::min(block, n - begin);
    for_each_vector(size, [&sums, row, begin, count](auto d, int64_t i) HWY_ATTR {
      auto sum = load(d, row(0) + begin + i);
      for (int64_t k = 1; k < count; k++) sum = hn::Add(sum, load(d, row(k) + begin + i));
      hn::StoreU(sum, d, sums + i);
    });
    write_gradient(gradient + begin, sums, size, write, rounding, static_cast<uint64_t>(first + begin));
  }
}

/// body(type of the gradient, type of the rows).
template <class Body>
void with_types(const Tensor& gradient, const Tensor& rows, const Body& body) {
  with_storage(rows.dtype, [&]<class S>(S* type) {
    if (gradient.dtype == DType::bf16) return body(static_cast<bf16_t*>(nullptr), type);
    body(static_cast<float*>(nullptr), type);
  });
}

void token_embedding_backward_loop(const Tensor& dtoken, const Tensor& dh, const Tensor& tokens, const Tensor& order, GradientWrite write,
                                   const RandomStream& rounding, int64_t begin, int64_t end) {
  const int64_t H = dh.columns();
  const int32_t *token_of = tokens.as<int32_t>(), *rows = order.as<int32_t>();
  with_types(dtoken, dh, [&]<class G, class S>(G*, S*) {
    for (int64_t first = begin, last; first < end; first = last) {
      const int64_t token = token_of[rows[first]];
      for (last = first + 1; last < end && token_of[rows[last]] == token; last++) {
      }
      const S* data = dh.as<S>();
      sum_rows(
          dtoken.as<G>() + token * H, H, last - first, [=](int64_t k) { return data + rows[first + k] * H; }, write, rounding, token * H);
    }
  });
}

/// Sequences lie T rows apart.
void position_embedding_backward_loop(const Tensor& dposition, const Tensor& dh, int64_t T, GradientWrite write,
                                      const RandomStream& rounding, int64_t begin, int64_t end) {
  const int64_t apart = T * dh.columns(), sequences = dh.rows() / T;
  with_types(dposition, dh, [&]<class G, class S>(G*, S*) {
    const S* data = dh.as<S>() + begin;
    sum_rows(
        dposition.as<G>() + begin, end - begin, sequences, [=](int64_t k) { return data + k * apart; }, write, rounding, begin);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {
HWY_EXPORT(embedding_forward_loop);
HWY_EXPORT(token_embedding_backward_loop);
HWY_EXPORT(position_embedding_backward_loop);
}  // namespace

void embedding_forward_rows(const Tensor& h, const Tensor& tokens, const Tensor& token_weight, const Tensor& position_weight, int64_t T,
                            int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(embedding_forward_loop)(h, tokens, token_weight, position_weight, T, begin, end);
}

void token_embedding_backward_range(const Tensor& dtoken, const Tensor& dh, const Tensor& tokens, const Tensor& order, GradientWrite write,
                                    const RandomStream& rounding, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(token_embedding_backward_loop)(dtoken, dh, tokens, order, write, rounding, begin, end);
}

void position_embedding_backward_range(const Tensor& dposition, const Tensor& dh, int64_t T, GradientWrite write,
                                       const RandomStream& rounding, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(position_embedding_backward_loop)(dposition, dh, T, write, rounding, begin, end);
}

}  // namespace tessera
#endif
