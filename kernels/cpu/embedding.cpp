// The embedding and its backward: each thread owns whole tokens, so a row of the table is summed by one thread, in row order.
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

void embedding_forward_loop(float* h, const int32_t* tokens, const float* token_weight, const float* position_weight, int64_t T, int64_t H,
                            int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; r++) {
    const float *token = token_weight + tokens[r] * H, *position = position_weight + r % T * H;
    float* to = h + r * H;
    for_each_vector(
        H, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, token + i), hn::LoadU(d, position + i)), d, to + i); });
  }
}

/// The sum over a token's rows stands in a register until it meets the table.
void token_embedding_backward_loop(float* dtoken, const float* dh, const int32_t* tokens, const int32_t* order, int64_t H, int64_t begin,
                                   int64_t end) {
  for (int64_t first = begin, last; first < end; first = last) {
    const int32_t token = tokens[order[first]];
    for (last = first + 1; last < end && tokens[order[last]] == token; last++) {
    }
    float* to = dtoken + token * H;
    const int64_t stop = last;  // a lambda copies no variable that still changes
    for_each_vector(H, [=](auto d, int64_t i) HWY_ATTR {
      auto sum = hn::LoadU(d, dh + order[first] * H + i);
      for (int64_t k = first + 1; k < stop; k++) sum = hn::Add(sum, hn::LoadU(d, dh + order[k] * H + i));
      hn::StoreU(hn::Add(hn::LoadU(d, to + i), sum), d, to + i);
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(embedding_forward_loop);
HWY_EXPORT(token_embedding_backward_loop);

void embedding_forward_rows(float* h, const int32_t* tokens, const float* token_weight, const float* position_weight, int64_t T, int64_t H,
                            int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(embedding_forward_loop)(h, tokens, token_weight, position_weight, T, H, begin, end);
}

void token_embedding_backward_range(float* dtoken, const float* dh, const int32_t* tokens, const int32_t* order, int64_t H, int64_t begin,
                                    int64_t end) {
  HWY_DYNAMIC_DISPATCH(token_embedding_backward_loop)(dtoken, dh, tokens, order, H, begin, end);
}

}  // namespace tessera
#endif
