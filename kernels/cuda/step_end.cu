// The end of a step on a GPU, with the arithmetic and the bits of kernels/step_end.h: the exact norm, the loss, what the ranks agree on.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/cuda/warp.h"
#include "kernels/step_end.h"

namespace tessera {
namespace cuda {
namespace {

constexpr int threads = 128, block_rows = norm_block / norm_lanes;

__device__ __forceinline__ SaturatingSum of_other_lane(const SaturatingSum& sum, int distance) {
  const auto lower = static_cast<unsigned long long>(sum.value), upper = static_cast<unsigned long long>(sum.value >> 64);
  const unsigned long long other_lower = __shfl_xor_sync(all_lanes, lower, distance);
  const unsigned long long other_upper = __shfl_xor_sync(all_lanes, upper, distance);
  const int other_flag = __shfl_xor_sync(all_lanes, static_cast<int>(sum.nonfinite), distance);
  return {static_cast<FixedSum>(other_upper) << 64 | other_lower, other_flag != 0};
}

__device__ __forceinline__ SaturatingSum sum_of_warp(SaturatingSum sum) {
  for (int distance = warp_lanes / 2; distance > 0; distance /= 2) sum.add(of_other_lane(sum, distance));
  return sum;
}

struct WarpSums {
  SaturatingSum of[threads / warp_lanes];
};

/// Of all threads, in thread 0. All threads must call it, once in a kernel.
__device__ __forceinline__ SaturatingSum sum_of_block(const SaturatingSum& mine) {
  WarpSums& warps = shared<WarpSums>();
  SaturatingSum sum = sum_of_warp(mine);
  if (lane_of_thread() == 0) warps.of[warp_of_thread()] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < threads / warp_lanes; warp++) sum.add(warps.of[warp]);
  }
  return sum;
}

/// The lanes of a norm block that one thread sums: 16 bytes in each of its 16 rows. So 4 threads share a block of fp32, 2 one of bf16.
template <class T>
struct NormLanes {
  static constexpr int mine = pack_size<T>, threads_of_block = static_cast<int>(norm_lanes) / mine;
  double sums[mine] = {};

  /// Rows of the block that begins at `block`; elements from `left` on are missing, which is as if they were 0.
  __device__ __forceinline__ void add_rows(const T* block, int64_t left, bool packed) {
    const int column = static_cast<int>(threadIdx.x) % threads_of_block * mine;
    if (packed && left >= norm_block) {
      Pack<T> rows[block_rows];  // asked for before the first is used, as far as registers go
#pragma unroll
      for (int row = 0; row < block_rows; row++) rows[row] = load_pack(block + row * norm_lanes + column);
#pragma unroll
      for (int row = 0; row < block_rows; row++) {
#pragma unroll
        for (int i = 0; i < mine; i++) add(i, to_float(rows[row].elements[i]));
      }
    } else {
      for (int row = 0; row < block_rows; row++) {
#pragma unroll
        for (int i = 0; i < mine; i++) {
          const int64_t element = row * norm_lanes + column + i;
          add(i, element < left ? to_float(block[element]) : 0.0f);
        }
      }
    }
  }
  __device__ __forceinline__ void add(int i, float value) {
    sums[i] = fma(static_cast<double>(value), static_cast<double>(value), sums[i]);
  }

  /// The block's sum, in each of its threads; all lanes of the warp must call it. The tree of norm_block: upper lanes to lower ones, first
  /// those of other threads.
  __device__ __forceinline__ double tree() {
#pragma unroll
    for (int distance = threads_of_block / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int i = 0; i < mine; i++) sums[i] += __shfl_xor_sync(all_lanes, sums[i], distance);
    }
#pragma unroll
    for (int half = mine / 2; half > 0; half /= 2) {
#pragma unroll
      for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    }
    return sums[0];
  }
};

/// sums [blocks of the grid] from gradient [n]. Bound by memory: each byte is read once, 16 at a time, a norm block's rows by neighbouring
/// threads. A warp takes 8 norm blocks of fp32 or 16 of bf16 at once.
template <class T>
__global__ void __launch_bounds__(threads)
    norm_kernel(SaturatingSum* sums, const T* gradient, int64_t n, const StepControl* control, bool packed) {
  constexpr int blocks_of_warp = warp_lanes / NormLanes<T>::threads_of_block;
  const int64_t warps = int64_t{gridDim.x} * (threads / warp_lanes);
  const int64_t warp = int64_t{blockIdx.x} * (threads / warp_lanes) + warp_of_thread();
  const double loss_scale = control->loss_scale;
  SaturatingSum sum;
  for (int64_t first = warp * blocks_of_warp; first * norm_block < n; first += warps * blocks_of_warp) {
    const int64_t begin = (first + lane_of_thread() / NormLanes<T>::threads_of_block) * norm_block;
    NormLanes<T> lanes;
    if (begin < n) lanes.add_rows(gradient + begin, n - begin, packed);
    const double squares = lanes.tree();
    if (lane_of_thread() % NormLanes<T>::threads_of_block == 0) sum.add_block(squares, loss_scale);
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// partial += sums [count], by one block.
__global__ void __launch_bounds__(threads) add_norm_kernel(StepPartial* partial, const SaturatingSum* sums, int count) {
  SaturatingSum sum;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) sum.add(sums[i]);
  sum = sum_of_block(sum);
  if (threadIdx.x != 0) return;
  sum.add(SaturatingSum{partial->norm_squares, partial->nonfinite != 0});
  partial->norm_squares = sum.value;
  partial->nonfinite = sum.nonfinite;
}

struct LossChunk {
  static constexpr int size = 2048;
  double losses[size];
};

/// losses [R] in order, by one block: all threads fetch, one adds. Bound by the latency of R additions, 10 us for 2000 tokens.
__global__ void __launch_bounds__(threads) add_loss_kernel(StepPartial* partial, const float* losses, int64_t R) {
  LossChunk& chunk = shared<LossChunk>();
  double sum = partial->loss_sum;
  bool finite = true;
  for (int64_t begin = 0; begin < R; begin += LossChunk::size) {
    const int count = static_cast<int>(min(R - begin, int64_t{LossChunk::size}));
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
      const float loss = losses[begin + i];
      finite = finite && loss - loss == 0;
      chunk.losses[i] = loss;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < count; i++) sum += chunk.losses[i];
    }
    __syncthreads();
  }
  const int nonfinite = __syncthreads_or(!finite);
  if (threadIdx.x != 0) return;
  partial->loss_sum = sum;
  if (nonfinite) partial->nonfinite = 1;
}

__global__ void begin_step_kernel(StepPartial* partial, int32_t stop_vote) { *partial = {0, 0, 0, stop_vote}; }

struct PartialChunk {
  StepPartial partials[threads];
};

/// partials [ranks], by one block: all threads fetch, one adds.
__global__ void __launch_bounds__(threads)
    agree_step_kernel(StepControl* control, const StepPartial* partials, int ranks, float clip, LossScaling scaling) {
  PartialChunk& chunk = shared<PartialChunk>();
  StepAgreement agreement;
  for (int begin = 0; begin < ranks; begin += threads) {
    const int count = min(ranks - begin, threads), mine = static_cast<int>(threadIdx.x);
    if (mine < count) chunk.partials[mine] = partials[begin + mine];
    __syncthreads();
    if (mine == 0) {
      for (int i = 0; i < count; i++) agreement.add(chunk.partials[i]);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) agreement.finish(*control, clip, scaling);
}

class CudaUpdateOps final : public UpdateOps {
 public:
  explicit CudaUpdateOps(const CudaContext& context) : workspace_(context.workspace), multiprocessors_(context.multiprocessors) {}

 private:
  void do_update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper, int64_t step,
                 const StepControl* control, Stream& stream) override {
    enqueue_update(rule, shard, segments, hyper, step, control, multiprocessors_, cuda_stream(stream));
  }

  void do_gradient_norm(StepPartial* partial, Tensor gradient, const StepControl* control, Stream& stream) override {
    const int64_t n = gradient.elements();
    if (n == 0) return;
    if (gradient.dtype == DType::bf16) {
      enqueue_norm<__nv_bfloat16>(partial, gradient, n, control, stream);
    } else {
      enqueue_norm<float>(partial, gradient, n, control, stream);
    }
  }

  template <class T>
  void enqueue_norm(StepPartial* partial, const Tensor& gradient, int64_t n, const StepControl* control, Stream& stream) {
    constexpr int64_t elements_of_block = int64_t{threads} / NormLanes<T>::threads_of_block * norm_block;
    const int64_t blocks = std::min<int64_t>(blocks_for(n, elements_of_block), int64_t{multiprocessors_} * norm_blocks_of_a_multiprocessor);
    invariant(workspace_.bytes() >= blocks * static_cast<int64_t>(sizeof(SaturatingSum)), "the workspace holds no sums of a gradient norm");
    auto* sums = static_cast<SaturatingSum*>(workspace_.data);
    launch(norm_kernel<T>, {static_cast<unsigned>(blocks), threads}, cuda_stream(stream), sums, elements_of<T>(gradient), n, control,
           is_packed(gradient.data, 0));
    launch(add_norm_kernel, {1, threads}, cuda_stream(stream), partial, sums, static_cast<int>(blocks));
  }

  void do_add_loss(StepPartial* partial, Tensor losses, Stream& stream) override {
    launch(add_loss_kernel, {1, threads}, cuda_stream(stream), partial, losses.as<float>(), losses.elements());
  }
  void do_begin_step(StepPartial* partial, int32_t stop_vote, Stream& stream) override {
    launch(begin_step_kernel, {1, 1}, cuda_stream(stream), partial, stop_vote);
  }
  void do_agree_step(StepControl* control, const StepPartial* partials, int ranks, float clip, const LossScaling& scaling,
                     Stream& stream) override {
    launch(agree_step_kernel, {1, threads}, cuda_stream(stream), control, partials, ranks, clip, scaling);
  }

  /// About as many as run at once; 32 bytes of workspace for each.
  static constexpr int norm_blocks_of_a_multiprocessor = 12;
  const Tensor& workspace_;
  int multiprocessors_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<UpdateOps> make_cuda_update_ops(const CudaContext& context) { return std::make_unique<cuda::CudaUpdateOps>(context); }

}  // namespace tessera
