#pragma once
#include <memory>

#include "kernels/cpu/matmul_product.h"

namespace tessera {

/// c = a b or c += a b in fp32 by oneDNN's sgemm, which beats its matmul primitive: that one collapses on rows 4 KiB apart.
/// The bias is the caller's.
void multiply_fp32(const MatmulProduct& product);

/// Products of 16-bit matrices by oneDNN's primitives, which are created once for each distinct product and kept: creation takes
/// milliseconds. Sums are fp32. Belongs to one rank and its thread; runs on as many threads as OpenMP gives that one.
class LibraryMatmul {
 public:
  LibraryMatmul();
  ~LibraryMatmul();
  /// Whether products of this type are faster here than fp32 products of converted matrices.
  bool multiplies(DType dtype) const;
  /// c [m, n] of the factors' type or fp32; never accumulates. InternalError when oneDNN refuses.
  void multiply(const MatmulProduct& product);

 private:
  class Primitives;
  std::unique_ptr<Primitives> primitives_;
};

}  // namespace tessera
