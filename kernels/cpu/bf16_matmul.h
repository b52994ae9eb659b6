#pragma once
#include <cstddef>
#include <span>

#include "kernels/cpu/bf16_kernels.h"
#include "kernels/cpu/matmul_product.h"

namespace tessera {

/// Whether this machine has what all of our kernels need around their products: AVX-512.
bool has_bf16_matmul();

/// packed = the panels (base/packed_weight.h) of a bf16 matrix, or of its transpose: the right factor of multiply_bf16 and of oneDNN. Rows
/// may lie apart.
void pack_bf16(const Tensor& packed, const Tensor& matrix, bool transposed, int threads);

/// A product of bf16 matrices by our own kernels, from product.packed_b where that is given. c is bf16, rounded once to nearest, or fp32;
/// only fp32 may be accumulated into, and only bf16 has a bias (bf16, or empty). Rows may lie apart. Allocates nothing; runs on `threads`
/// OpenMP threads. workspace: `threads` times packing_bytes, aligned to 64 bytes. Every sum has an order of its own, so the number of
/// threads changes no bit. InternalError on types or a workspace that do not fit.
void multiply_bf16(const MatmulProduct& product, std::span<std::byte> workspace, int threads,
                   Bf16Kernel kernel = bf16_kernel_candidates().front());

}  // namespace tessera
