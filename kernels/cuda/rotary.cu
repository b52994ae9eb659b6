// Rotary positions: each pair of channels (i, i + D/2) of a head turns by the angle of its position. Bound by memory: a thread turns the
// same channels of four heads, which share the table's cosines and sines.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/flat_grid.h"
#include "kernels/cuda/storage.h"

namespace tessera::cuda {
namespace {

constexpr int heads_together = 4;

/// x [N, heads D] in place; table [T, D] fp32: cosines, then sines. `sign` -1 turns back.
template <class S>
struct Rotation {
  Rows<S> x;
  const float* table;
  int64_t N, heads, T, D;
  float sign;
  bool packed;
  static constexpr int width = pack_size<S>;
  __host__ __device__ int64_t packs() const { return (D / 2 + width - 1) / width; }
  __host__ __device__ int64_t items_of_row() const { return (heads + heads_together - 1) / heads_together * packs(); }
};

template <class S>
__global__ void __launch_bounds__(flat_threads) rotary_kernel(const Rotation<S> a) {
  constexpr int width = Rotation<S>::width;
  const int64_t pairs = a.D / 2;
  for (int64_t item = first_item(); item < a.N * a.items_of_row(); item += items_apart()) {
    const auto [row, item_of_row] = divide(item, a.items_of_row());
    const auto [group, pack] = divide(item_of_row, a.packs());
    const int64_t channel = pack * width, first_head = group * heads_together;
    const int count = elements_left<width>(pairs, channel);
    S* first = a.x[row] + first_head * a.D + channel;
    Elements<S, width> even[heads_together], odd[heads_together];
#pragma unroll
    for (int head = 0; head < heads_together; head++) {
      if (first_head + head >= a.heads) continue;
      even[head] = load_elements<width>(first + head * a.D, count, a.packed);
      odd[head] = load_elements<width>(first + head * a.D + pairs, count, a.packed);
    }
    const float* angles = a.table + divide(row, a.T).remainder * a.D + channel;
    const Elements<float, width> cosines = load_elements<width>(angles, count, a.packed),
                                 sines = load_elements<width>(angles + pairs, count, a.packed);
#pragma unroll
    for (int head = 0; head < heads_together; head++) {
      if (first_head + head >= a.heads) continue;
#pragma unroll
      for (int i = 0; i < width; i++) {
        const float x = even[head][i], y = odd[head][i], c = cosines[i], s = a.sign * sines[i];
        even[head].set(i, fmaf(-y, s, x * c));
        odd[head].set(i, fmaf(x, s, y * c));
      }
      store_elements(first + head * a.D, even[head], count, a.packed);
      store_elements(first + head * a.D + pairs, odd[head], count, a.packed);
    }
  }
}

}  // namespace

void rotary(const Tensor& x, const Tensor& table, Turn turn, cudaStream_t stream) {
  if (x.elements() == 0) return;
  with_storage(x.dtype, [&]<class S>(S*) {
    const int64_t D = table.columns();
    const Rotation<S> a = {.x = {elements_of<S>(x), x.row_stride()},
                           .table = elements_of<float>(table),
                           .N = x.rows(),
                           .heads = x.columns() / D,
                           .T = table.rows(),
                           .D = D,
                           .sign = turn == Turn::Forward ? 1.0f : -1.0f,
                           .packed = starts_packed(x) && is_packed(table.data, 0) && D / 2 % Rotation<S>::width == 0};
    launch(rotary_kernel<S>, flat_grid(a.N * a.items_of_row()), stream, a);
  });
}

}  // namespace tessera::cuda
