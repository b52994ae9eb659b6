#pragma once
#include <cstddef>
#include <memory>
#include <span>

#include "kernels/cpu/matmul_product.h"

namespace tessera {

/// c = a b or c += a b in fp32 by oneDNN's sgemm, which beats its matmul primitive: that one collapses on rows 4 KiB apart.
/// The bias is the caller's.
void multiply_fp32(const MatmulProduct& product);

/// Products by oneDNN's primitives, which are created once for each distinct product and kept: creation takes
/// milliseconds. Sums are fp32. Belongs to one rank and its thread; runs on as many threads as OpenMP gives that one.
class LibraryMatmul {
 public:
  LibraryMatmul();
  ~LibraryMatmul();
  /// Whether there are products of this type on this machine, and whether they were faster, wherever this was measured, than fp32
  /// products of converted matrices.
  bool multiplies(DType dtype) const;
  bool multiplies_fast(DType dtype) const;
  /// c [m, n] of the factors' type or fp32; never accumulates. `scratch` is the library's during the call. InternalError when oneDNN
  /// refuses.
  void multiply(const MatmulProduct& product, std::span<std::byte> scratch);

 private:
  class Primitives;
  std::unique_ptr<Primitives> primitives_;
};

}  // namespace tessera
