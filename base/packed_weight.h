#pragma once
#include <cstdint>

namespace tessera {

/// A packed factor of a matrix product, b [depth, columns] in bf16, as matrix instructions read it: panels of 32 columns, one behind the
/// other, each [depth / 2, 32, 2], so that two successive rows are interleaved. Both extents are filled up with zeros to multiples of 32.
/// oneDNN calls it BA16a32b2a.
constexpr int64_t packed_step = 32;
constexpr int64_t packed_extent(int64_t extent) { return (extent + packed_step - 1) / packed_step * packed_step; }
constexpr int64_t packed_elements(int64_t depth, int64_t columns) { return packed_extent(depth) * packed_extent(columns); }

}  // namespace tessera
