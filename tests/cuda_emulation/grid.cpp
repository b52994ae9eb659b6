// A launch: what the driver checks, and the blocks of a grid one after the other.
#include <cstdlib>
#include <map>

#include "tests/cuda_emulation/device_limits.h"
#include "tests/cuda_emulation/sanitizers.h"
#include "tests/cuda_emulation/scheduler.h"
#include "tests/cuda_emulation/settings.h"
#include "tests/cuda_emulation/streams.h"

namespace cuda_emulation {
namespace {

unsigned count_of(dim3 extent) { return extent.x * extent.y * extent.z; }
uint3 place_of(unsigned linear, dim3 extent) { return {linear % extent.x, linear / extent.x % extent.y, linear / (extent.x * extent.y)}; }

unsigned nth_block(unsigned i, unsigned blocks) {
  if (settings().order == ThreadOrder::Reverse) return blocks - 1 - i;
  // A permutation, because 7919 is prime; where it divides the number of blocks, only a rotation.
  const std::size_t stride = blocks % 7919 == 0 ? 1 : 7919;
  if (settings().order == ThreadOrder::Random) return static_cast<unsigned>((i * stride + settings().seed) % blocks);
  return i;
}

// Threads of a block that differ from those of the block before: grid races are found between these.
unsigned turn_of_fibers = 0;

void set_up_threads(uint3 place, dim3 grid, dim3 threads) {
  Block& b = block();
  b.size = b.live = count_of(threads);
  b.waiting = 0;
  for (unsigned& lanes : b.lanes_waiting) lanes = 0;
  b.ready.clear(b.size);
  for (unsigned t = 0; t < b.size; t++) {
    Thread& thread = b.threads[t];
    thread.thread = place_of(t, threads);
    thread.block = place;
    thread.block_size = threads;
    thread.grid_size = grid;
    thread.linear = t;
    thread.state = ThreadState::Fresh;
    thread.barriers_passed = thread.warp_syncs_passed = 0;
    thread.fiber = races_are_watched ? watched_fiber(running_stream(), turn_of_fibers, t) : nullptr;
    b.ready.push(&thread);
  }
}

char* create_mark(std::size_t bytes) { return races_are_watched ? static_cast<char*>(std::malloc(bytes)) : nullptr; }

void run_grid(dim3 grid, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body) {
  OrderMarks& marks = block().marks;
  marks = {create_mark(8), create_mark(8), create_mark(8)};
  happens_before(marks.launch);
  block().body = &body;
  const unsigned blocks = count_of(grid);
  for (unsigned i = 0; i < blocks; i++) {
    marks.block = create_mark(OrderMarks::block_bytes);
    if (settings().races == RaceScope::Grid) turn_of_fibers++;
    begin_shared_memory(shared_bytes);
    set_up_threads(place_of(nth_block(i, blocks), grid), grid, threads);
    run_block();
    end_shared_memory();
    if (settings().races == RaceScope::Block) {
      happens_after(marks.end);
      happens_before(marks.launch);
    }
    std::free(marks.block);
  }
  happens_after(marks.end);
  std::free(marks.launch), std::free(marks.end), std::free(marks.fence);
}

std::map<const void*, std::size_t>& dynamic_limits() {
  static auto* limits = new std::map<const void*, std::size_t>;
  return *limits;
}

cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim, threads = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || count_of(threads) == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > grid_x_max || grid.y > grid_yz_max || grid.z > grid_yz_max) return cudaErrorInvalidConfiguration;
  if (threads.x > block_threads_max || threads.y > block_threads_max || threads.z > block_z_max) return cudaErrorInvalidConfiguration;
  if (count_of(threads) > block_threads_max) return cudaErrorInvalidConfiguration;
  const auto limit = dynamic_limits().find(kernel);
  const std::size_t allowed = limit == dynamic_limits().end() ? shared_bytes_default : limit->second;
  return config.dynamicSmemBytes > allowed ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

cudaError_t launch_grid(const void* kernel, const cudaLaunchConfig_t& config, std::function<void()> body) {
  const Call call("cudaLaunchKernelEx");
  if (config.numAttrs != 0) fault("launch attributes are not emulated");
  const cudaError_t error = check_launch(kernel, config);
  if (error != cudaSuccess) return fail(error);
  prepare_shared_memory();
  const dim3 grid = config.gridDim, threads = config.blockDim;
  const std::size_t shared_bytes = config.dynamicSmemBytes;
  enqueue(stream_of(config.stream), [=, body = std::move(body)] { run_grid(grid, threads, shared_bytes, body); });
  return cudaSuccess;
}

bool allow_dynamic_shared(const void* kernel, std::size_t bytes) {
  if (bytes > shared_bytes_opt_in) return false;
  dynamic_limits()[kernel] = bytes;
  return true;
}

}  // namespace cuda_emulation
