#pragma once
// The one way to start a kernel.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cuda/check.h"

namespace tessera::cuda {

/// Blocks of a grid, threads of a block, bytes of dynamic shared memory; and where the launch stands, for its error.
struct LaunchShape {
  LaunchShape(dim3 grid_, dim3 block_, size_t shared_bytes_ = 0, Where where_ = Where::here())
      : grid(grid_), block(block_), shared_bytes(shared_bytes_), where(where_) {}
  dim3 grid, block;
  size_t shared_bytes;
  Where where;
};

constexpr size_t shared_bytes_without_asking = 48 * 1024;

/// Blocks of `block_items` that cover `items`.
constexpr unsigned blocks_for(int64_t items, int64_t block_items) { return static_cast<unsigned>((items + block_items - 1) / block_items); }

/// Enqueues kernel(arguments...) on a stream that was created; throws what check() throws. More than 48 KiB of dynamic shared memory are asked
/// for here. An empty grid is an error, as in CUDA: callers with nothing to do do not launch.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t stream, Arguments&&... arguments) {
  if (shape.shared_bytes > shared_bytes_without_asking) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "dynamic shared memory of " + std::to_string(shape.shared_bytes) + " bytes", shape.where);
  }
  // By position, because the emulation takes some members' names for built-in variables: grid, block, shared bytes, stream, attributes.
  const cudaLaunchConfig_t config = {shape.grid, shape.block, shape.shared_bytes, stream, nullptr, 0};
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  if (status == cudaSuccess) return;
  const auto text = [](dim3 d) { return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z); };
  check(status, "launch of " + text(shape.grid) + " blocks of " + text(shape.block) + " threads", shape.where);
}

}  // namespace tessera::cuda
