// Softmax cross-entropy, a block a row. Bound by memory: a row is read once and its gradient written once. Between the two the row waits in
// shared memory as far as that reaches (half of a multiprocessor's for two rows at a time, all of it for longer rows, so that one row's
// reading hides behind another's exponentials); what does not fit is read again, mostly from the L2 cache.
//
// Thread t takes groups t, t + threads, ... of eight neighbouring elements, whatever their type and place: so the bits of the sums depend
// on the values and V alone.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/instructions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/cuda/warp.h"

namespace tessera {
namespace cuda {
namespace {

constexpr int group = 8;
/// With 64 registers for each of 1024 threads: two rows on a multiprocessor, or a long one, which has its shared memory to itself. The
/// choice follows V, and not the type, because it decides the order of the sums.
constexpr int threads_of_a_row = 512, threads_of_a_long_row = 1024;
constexpr int64_t long_row = 65536;

/// Eight neighbouring logits as they are stored.
template <class T>
struct Group {
  static constexpr int packs = group / pack_size<T>;
  Pack<T> pack[packs];

  __device__ __forceinline__ float operator[](int i) const { return to_float(pack[i / pack_size<T>].elements[i % pack_size<T>]); }
  __device__ __forceinline__ void set(int i, float value) { pack[i / pack_size<T>].elements[i % pack_size<T>] = from_float<T>(value); }
};

/// Logits [first, first + 8) of a row of V; behind its end -infinity, whose exponential is 0. `aligned`: the row begins at 16 bytes.
template <class T, bool aligned>
__device__ __forceinline__ Group<T> load_group(const T* row, int first, int V) {
  Group<T> loaded;
  if (aligned && first + group <= V) {
#pragma unroll
    for (int p = 0; p < Group<T>::packs; p++) loaded.pack[p] = load_pack(row + first + p * pack_size<T>);
  } else {
#pragma unroll
    for (int i = 0; i < group; i++) {
      loaded.pack[i / pack_size<T>].elements[i % pack_size<T>] = first + i < V ? row[first + i] : from_float<T>(-INFINITY);
    }
  }
  return loaded;
}

template <class T, bool aligned>
__device__ __forceinline__ void store_group(T* row, int first, int V, const Group<T>& values) {
  if (aligned && first + group <= V) {
#pragma unroll
    for (int p = 0; p < Group<T>::packs; p++) store_pack(row + first + p * pack_size<T>, values.pack[p]);
  } else {
#pragma unroll
    for (int i = 0; i < group; i++) {
      if (first + i < V) row[first + i] = values.pack[i / pack_size<T>].elements[i % pack_size<T>];
    }
  }
}

/// The first groups of a row in shared memory; each thread reads what it wrote, so no barrier is needed. Pack p of group g stands at
/// [p, g]: neighbouring threads, neighbouring banks.
template <class T>
struct KeptGroups {
  Pack<T>* packs;
  int count;

  __device__ __forceinline__ void put(int g, const Group<T>& values) const {
#pragma unroll
    for (int p = 0; p < Group<T>::packs; p++) packs[p * count + g] = values.pack[p];
  }
  __device__ __forceinline__ Group<T> get(int g) const {
    Group<T> values;
#pragma unroll
    for (int p = 0; p < Group<T>::packs; p++) values.pack[p] = packs[p * count + g];
    return values;
  }
};

/// e^x, 0 where that is below 2^-126. x <= 0: the error of the product is that of x.
__device__ __forceinline__ float exponential(float x) { return exp2_approximate(x * 1.44269504f); }

/// The sum of e^(x - largest) over what was added, `largest` the maximum of it. A NaN or +infinity makes the sum NaN.
struct ExponentialSum {
  float largest = -INFINITY, sum = 0;

  /// -infinity less itself is no number: a row that begins with masked logits.
  __device__ __forceinline__ static float finite(float x) { return x == -INFINITY ? 0.0f : x; }

  template <class T>
  __device__ __forceinline__ void add(const Group<T>& x) {
    float above = x[0];
#pragma unroll
    for (int i = 1; i < group; i++) above = fmaxf(above, x[i]);
    if (above > largest) {
      sum *= exponential(largest - above);
      largest = above;
    }
    const float reference = finite(largest);
    float e[group];
#pragma unroll
    for (int i = 0; i < group; i++) e[i] = exponential(x[i] - reference);
    sum += ((e[0] + e[1]) + (e[2] + e[3])) + ((e[4] + e[5]) + (e[6] + e[7]));
  }

  /// That of all threads, in each of them.
  __device__ __forceinline__ ExponentialSum of_block() const {
    const float all = block_max(largest, -INFINITY);
    return {all, block_sum(sum * exponential(largest == all ? 0.0f : largest - all))};
  }
};

/// How many groups a thread asks for before it uses the first: 64 bytes.
template <class T>
constexpr int groups_ahead = 4 / Group<T>::packs;

/// logits [R, V] with `stride` elements between rows, losses [R], targets [R]. `factor`, times the control's loss scale, multiplies the
/// gradient, which overwrites the logits; without `gradient` they stay.
template <class T, bool aligned, bool gradient>
__global__ void __launch_bounds__(threads_of_a_long_row)
    cross_entropy_kernel(float* losses, T* logits, const int32_t* targets, int64_t R, int V, int64_t stride, float factor,
                         const StepControl* control, int kept_groups) {
  const int groups = (V + group - 1) / group, threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const KeptGroups<T> kept{gradient ? dynamic_shared<Pack<T>>() : nullptr, kept_groups};
  for (int64_t r = blockIdx.x; r < R; r += gridDim.x) {
    T* row = logits + r * stride;
    const int target = targets[r];
    const float target_logit = to_float(row[target]);
    ExponentialSum mine;
    for (int first = thread; first < groups; first += groups_ahead<T> * threads) {
      Group<T> x[groups_ahead<T>];
#pragma unroll
      for (int a = 0; a < groups_ahead<T>; a++) x[a] = load_group<T, aligned>(row, (first + a * threads) * group, V);
#pragma unroll
      for (int a = 0; a < groups_ahead<T>; a++) {
        mine.add(x[a]);
        if (gradient && first + a * threads < kept_groups) kept.put(first + a * threads, x[a]);
      }
    }
    const ExponentialSum all = mine.of_block();  // after its barriers nobody reads the target's logit any more
    if (thread == 0) losses[r] = static_cast<float>(log(static_cast<double>(all.sum)) + (static_cast<double>(all.largest) - target_logit));
    if constexpr (gradient) {
      const float scale = factor * control->loss_scale, over_sum = scale / all.sum;
      for (int first = thread; first < groups; first += groups_ahead<T> * threads) {
        Group<T> x[groups_ahead<T>];
#pragma unroll
        for (int a = 0; a < groups_ahead<T>; a++) {
          const int g = first + a * threads;
          x[a] = g < kept_groups ? kept.get(g) : load_group<T, aligned>(row, g * group, V);
        }
#pragma unroll
        for (int a = 0; a < groups_ahead<T>; a++) {
          const int begin = (first + a * threads) * group;
          Group<T> dx;
#pragma unroll
          for (int i = 0; i < group; i++) {
            const float softmax = exponential(x[a][i] - all.largest) * over_sum;
            dx.set(i, begin + i == target ? softmax - scale : softmax);
          }
          store_group<T, aligned>(row, begin, V, dx);
        }
      }
    }
  }
}

/// Bytes of dynamic shared memory that a block may have: with another one on its multiprocessor, and alone.
struct SharedBytes {
  int64_t of_two, of_one;

  static SharedBytes of_current_gpu() {
    int device = 0, most = 0, all = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory of a block");
    check(cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "shared memory of a multiprocessor");
    constexpr int64_t reserved = 1024, reductions = 1024;  // by CUDA for each block; for block_reduce
    return {std::min<int64_t>(all / 2 - reserved, most) - reductions, most - reductions};
  }
};

class CudaLossOps final : public LossOps {
 private:
  void do_cross_entropy(Tensor losses, Tensor logits, Tensor targets, float scale, const StepControl* control, Stream& stream) override {
    enqueue<true>(losses, logits, targets, scale, control, stream);
  }
  void do_cross_entropy_loss(Tensor losses, Tensor logits, Tensor targets, Stream& stream) override {
    enqueue<false>(losses, logits, targets, 0, nullptr, stream);
  }

  /// Of a row: those that wait in shared memory for their gradient.
  int64_t groups_kept(int64_t groups, int64_t group_bytes) const {
    const int64_t room = groups * group_bytes <= shared_.of_two ? shared_.of_two : shared_.of_one;
    return std::min(groups, room / group_bytes);
  }

  template <bool gradient>
  void enqueue(const Tensor& losses, const Tensor& logits, const Tensor& targets, float scale, const StepControl* control, Stream& stream) {
    const int64_t R = logits.rows(), V = logits.columns(), stride = logits.row_stride(), groups = (V + group - 1) / group;
    if (R == 0) return;
    invariant(V <= 1 << 30, "cross_entropy: a row has more than 2^30 logits");
    with_storage(logits.dtype, [&]<class T>(T*) {
      const int64_t kept = gradient ? groups_kept(groups, group * static_cast<int64_t>(sizeof(T))) : 0;
      const int64_t most = V <= long_row ? threads_of_a_row : threads_of_a_long_row;
      const int64_t threads = std::min(most, (groups + warp_lanes - 1) / warp_lanes * warp_lanes);
      const LaunchShape shape(static_cast<unsigned>(std::min(R, int64_t{1} << 30)), static_cast<unsigned>(threads),
                              static_cast<size_t>(kept * group) * sizeof(T));
      const auto kernel = is_packed(logits.data, stride * static_cast<int64_t>(sizeof(T))) ? &cross_entropy_kernel<T, true, gradient>
                                                                                           : &cross_entropy_kernel<T, false, gradient>;
      launch(kernel, shape, cuda_stream(stream), losses.as<float>(), elements_of<T>(logits), targets.as<int32_t>(), R, static_cast<int>(V),
             stride, scale, control, static_cast<int>(kept));
    });
  }

  SharedBytes shared_ = SharedBytes::of_current_gpu();
};

}  // namespace
}  // namespace cuda

std::unique_ptr<LossOps> make_cuda_loss_ops(const CudaContext&) { return std::make_unique<cuda::CudaLossOps>(); }

}  // namespace tessera
