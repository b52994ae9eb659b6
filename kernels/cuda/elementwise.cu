// The simplest ops on flat memory. All are bound by memory.
#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/transform.h"

namespace tessera::cuda {
namespace {

struct Scale {
  float factor;
  __device__ __forceinline__ float operator()(const float (&x)[1]) const { return factor * x[0]; }
};
struct Plus {
  __device__ __forceinline__ float operator()(const float (&x)[2]) const { return x[0] + x[1]; }
};

/// out [n] = pieces [R, n] added in order. Several pieces of a thread's elements are on their way while the sum waits for the first.
template <class T>
__global__ void __launch_bounds__(flat_threads) ordered_sum_kernel(T* out, const T* pieces, int64_t R, int64_t n, bool packed) {
  constexpr int width = pack_size<T>;
  for (int64_t item = first_item(); item * width < n; item += items_apart()) {
    const int64_t at = item * width;
    const int count = elements_left<width>(n, at);
    Elements<T, width> values = load_elements<width>(pieces + at, count, packed);
    float sums[width];
#pragma unroll
    for (int i = 0; i < width; i++) sums[i] = values[i];
#pragma unroll 4
    for (int64_t k = 1; k < R; k++) {
      const Elements<T, width> piece = load_elements<width>(pieces + k * n + at, count, packed);
#pragma unroll
      for (int i = 0; i < width; i++) sums[i] += piece[i];
    }
#pragma unroll
    for (int i = 0; i < width; i++) values.set(i, sums[i]);
    store_elements(out + at, values, count, packed);
  }
}

}  // namespace

void cast(const Tensor& to, const Tensor& from, float factor, cudaStream_t stream) {
  with_storage(from.dtype, [&]<class From>(From*) {
    with_storage(to.dtype, [&]<class To>(To*) { transform<To, From>(to, Scale{factor}, stream, from); });
  });
}

void add(const Tensor& out, const Tensor& a, const Tensor& b, cudaStream_t stream) {
  with_storage(out.dtype, [&]<class T>(T*) { transform<T, T>(out, Plus{}, stream, a, b); });
}

void ordered_sum(const Tensor& out, const Tensor& pieces, cudaStream_t stream) {
  const int64_t R = pieces.shape[0], n = out.elements();
  if (n == 0) return;
  with_gradient_storage(out.dtype, [&]<class T>(T*) {
    const bool packed = is_packed(out.data, 0) && is_packed(pieces.data, R == 1 ? 0 : n * bytes_of(out.dtype));
    launch(ordered_sum_kernel<T>, flat_grid((n + pack_size<T> - 1) / pack_size<T>), stream, elements_of<T>(out), elements_of<T>(pieces), R,
           n, packed);
  });
}

}  // namespace tessera::cuda
