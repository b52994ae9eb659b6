#pragma once
#include <cstdint>

namespace tessera {

/// What one thread does of an elementwise op, on the best instruction set of the machine. Any cut gives the same bits.

/// y = gelu(x) and dx = dy gelu'(x) over n elements.
void gelu_forward_range(float* y, const float* x, int64_t n);
void gelu_backward_range(float* dx, const float* dy, const float* x, int64_t n);

/// out = a + b over n elements.
void add_range(float* out, const float* a, const float* b, int64_t n);
/// out[i] = pieces[i] + pieces[i + stride] + ... in order, `count` terms; added to what out holds where `accumulate`.
void sum_range(float* out, const float* pieces, int64_t stride, int64_t count, int64_t n, bool accumulate);

/// Rows [begin, end) of h [N, H] = token_weight[tokens[r]] + position_weight[r % T].
void embedding_forward_rows(float* h, const int32_t* tokens, const float* token_weight, const float* position_weight, int64_t T, int64_t H,
                            int64_t begin, int64_t end);
/// Entries [begin, end) of order, which hold all rows of each of their tokens.
void token_embedding_backward_range(float* dtoken, const float* dh, const int32_t* tokens, const int32_t* order, int64_t H, int64_t begin,
                                    int64_t end);

}  // namespace tessera
