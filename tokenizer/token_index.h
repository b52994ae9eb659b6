#pragma once
#include <cstdint>
#include <span>

namespace tessera {

/// order [N]: the positions 0 .. N-1 of tokens [N], sorted by token, equal tokens in their order of position. With it the embedding's backward
/// sums each row's gradients in a fixed order, one owner a row. `workspace` [>= N] is scratch; nothing is allocated.
/// Radix sort of 11 bits a pass, as many passes as the largest token needs. InternalError on a negative token or a wrong size.
void sort_by_token(std::span<const int32_t> tokens, std::span<int32_t> order, std::span<int32_t> workspace);

}  // namespace tessera
