#pragma once
// What compiled kernels call: the border between the shim (instrumented by sanitizers) and the emulator (never instrumented).
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace cuda_emulation {

/// Where a CUDA thread stands; the built-in variables threadIdx, blockIdx, blockDim and gridDim read it.
struct ThreadPlace {
  uint3 thread{}, block{};
  dim3 block_size, grid_size;
  unsigned linear = 0;  // within the block, x fastest
};
extern ThreadPlace* current;  // of the CUDA thread that runs; null while none does

inline int lane() { return static_cast<int>(current->linear % 32); }

/// Prints the fault with block, thread and stack, and ends the process with status 99.
[[noreturn, gnu::format(printf, 1, 2)]] void fault(const char* format, ...);

enum class BarrierVote { Count, And, Or };
void sync_threads(const char* file, int line);
int sync_threads_vote(const char* file, int line, bool predicate, BarrierVote vote);
void sync_warp(unsigned mask);

/// Lanes of one warp that meet must name the same collective.
enum class Collective : int {
  SyncWarp,
  Shuffle,
  ShuffleUp,
  ShuffleDown,
  ShuffleXor,
  Ballot,
  Any,
  All,
  ReduceAdd,
  ReduceMax,
  ReduceMin,
  LoadMatrix,
  LoadMatrixTransposed,
  Mma,
};
constexpr unsigned lane_bytes_max = 64;  // what one lane may give

/// Every lane of `mask` gives `bytes` at `in` and gets those of lane `source` at `out`. Orders no memory, as in CUDA.
void warp_shuffle(unsigned mask, Collective kind, const void* in, unsigned bytes, int source, void* out);
/// Every lane of `mask` gives `bytes` at `in` and gets those of all 32 lanes at `out`; lanes outside the mask read as zero. Orders no memory.
void warp_gather(unsigned mask, Collective kind, const void* in, unsigned bytes, void* out);

/// A block's dynamic shared memory. A fault when the launch gave none.
void* dynamic_shared();
/// A block's static shared memory of one key, the same for all its threads.
void* static_shared(const void* key, std::size_t bytes);

/// __threadfence and its relatives.
void fence();

/// cp.async: `source_bytes` of `bytes` are copied, the others are zero. The copies land at the wait, as late as a program may see them.
void copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes);
void copy_async_commit();
void copy_async_wait(unsigned groups_left);

/// Checks as the driver does, then puts the grid on the stream; `body` is what one CUDA thread does.
cudaError_t launch_grid(const void* kernel, const cudaLaunchConfig_t& config, std::function<void()> body);

/// Work that is none of the runtime's own: the fake libraries enqueue with it.
void enqueue(cudaStream_t stream, std::function<void()> work);
/// Work that waits for other ranks: the stream stands before it until `ready`, which is asked under the runtime's lock.
void enqueue_when(cudaStream_t stream, std::function<bool()> ready, std::function<void()> work);
/// Under the runtime's lock, as one of its functions.
void locked(const std::function<void()>& body);
/// Of the calling thread.
int current_gpu();

/// In place of cudaLaunchKernelEx. The parameters are copied at the launch, as CUDA does.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel_ex(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  std::tuple<std::decay_t<Parameters>...> copies(static_cast<std::decay_t<Parameters>>(std::forward<Arguments>(arguments))...);
  return launch_grid(reinterpret_cast<const void*>(kernel), *config, [kernel, copies] { std::apply(kernel, copies); });
}

}  // namespace cuda_emulation
