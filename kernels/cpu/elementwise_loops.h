#pragma once
#include <cstdint>

#include "base/random.h"
#include "kernels/elementwise_ops.h"
#include "kernels/tensor.h"

namespace tessera {

/// What one thread does of an elementwise op, on the best instruction set of the machine: tensors as in elementwise_ops.h, and elements or
/// rows [begin, end) of them. Any cut gives the same bits.

void cast_range(const Tensor& to, const Tensor& from, float factor, int64_t begin, int64_t end);
void add_range(const Tensor& out, const Tensor& a, const Tensor& b, int64_t begin, int64_t end);
void ordered_sum_range(const Tensor& out, const Tensor& pieces, int64_t begin, int64_t end);

void gelu_forward_range(const Tensor& y, const Tensor& x, int64_t begin, int64_t end);
void gelu_backward_range(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t begin, int64_t end);
void swiglu_forward_rows(const Tensor& y, const Tensor& gate_up, int64_t begin, int64_t end);
void swiglu_backward_rows(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, int64_t begin, int64_t end);

void rotary_rows(const Tensor& x, const Tensor& table, Turn turn, int64_t begin, int64_t end);

void embedding_forward_rows(const Tensor& h, const Tensor& tokens, const Tensor& token_weight, const Tensor& position_weight, int64_t T,
                            int64_t begin, int64_t end);
/// Entries [begin, end) of order, which hold all rows of each of their tokens; the other rows of dtoken stay as they are.
void token_embedding_backward_range(const Tensor& dtoken, const Tensor& dh, const Tensor& tokens, const Tensor& order, GradientWrite write,
                                    const RandomStream& rounding, int64_t begin, int64_t end);
/// Elements [begin, end) of the first T rows of dposition.
void position_embedding_backward_range(const Tensor& dposition, const Tensor& dh, int64_t T, GradientWrite write,
                                       const RandomStream& rounding, int64_t begin, int64_t end);

}  // namespace tessera
