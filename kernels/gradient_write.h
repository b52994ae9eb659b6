#pragma once
#include <cstdint>

namespace tessera {

/// How an op's sums meet the memory of a gradient. The first op of a step that reaches a gradient overwrites it, every element and whatever
/// it held, so that nobody clears it; the others add.
enum class GradientWrite : uint8_t { Overwrite, Add };

/// Of a gradient with so many bytes: those that must be read. A place in an op's ShapeKey tells both apart: 1 where it adds.
constexpr int64_t read_bytes_of(GradientWrite write, int64_t gradient_bytes) { return write == GradientWrite::Add ? gradient_bytes : 0; }
constexpr int64_t key_of(GradientWrite write) { return write == GradientWrite::Add ? 1 : 0; }

}  // namespace tessera
