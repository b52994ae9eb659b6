// The embedding and its backward. Bound by memory.
#include "base/error.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/flat_grid.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/warp.h"

namespace tessera::cuda {
namespace {

constexpr int gradient_columns = 8;  // that a thread takes together: as many as one call of Philox has half words

/// h [N, H], tokens [N], token_weight [V, H], position_weight [P, H] or null.
template <class S>
struct Embedding {
  S* h;
  const int32_t* tokens;
  const S *token_weight, *position_weight;
  int64_t N, H, T;
  bool packed;
};

template <class S>
__global__ void __launch_bounds__(flat_threads) embedding_forward_kernel(const Embedding<S> a) {
  constexpr int width = pack_size<S>;
  const int64_t packs = (a.H + width - 1) / width;
  for (int64_t item = first_item(); item < a.N * packs; item += items_apart()) {
    const auto [row, pack] = divide(item, packs);
    const int64_t column = pack * width;
    const int count = elements_left<width>(a.H, column);
    Elements<S, width> value = load_elements<width>(a.token_weight + a.tokens[row] * a.H + column, count, a.packed);
    if (a.position_weight) {
      const int64_t position = divide(row, a.T).remainder;
      const Elements<S, width> added = load_elements<width>(a.position_weight + position * a.H + column, count, a.packed);
#pragma unroll
      for (int i = 0; i < width; i++) value.set(i, value[i] + added[i]);
    }
    store_elements(a.h + row * a.H + column, value, count, a.packed);
  }
}

/// dtoken [V, H] fp32 or bf16; dh [N, H]; tokens [N]; order [N]: row numbers sorted by token, equal ones in order.
template <class G, class S>
struct TokenBackward {
  G* dtoken;
  const S* dh;
  const int32_t *tokens, *order;
  int64_t N, H;
  GradientRule rule;
};

constexpr int warps_of_block = 4, chunk_positions = warp_lanes, warp_columns = warp_lanes * gradient_columns;

/// The rows of each token are neighbours in `order`. A warp takes 256 columns of 32 places there: from the first place that begins a token
/// on to the end of the token that the last one belongs to. Rows are loaded several at a time, whichever tokens they belong to; each
/// token's are added one after the other, in registers, and written once. A lane's place tells it a row number, which shuffles spread. For
/// a frequent token the rows in flight set the pace: 16 rows of 4096 columns of bf16 are 128 KiB.
///
/// `packed`, where H is a multiple of 8, is a constant: what else there is would stand in the code once for each row in flight.
template <class G, class S, bool packed>
__global__ void __launch_bounds__(warps_of_block* warp_lanes) token_backward_kernel(const TokenBackward<G, S> a) {
  constexpr int in_flight = packed ? 32 / static_cast<int>(sizeof(S)) : 1;  // 64 registers of them
  const int64_t tiles = (a.H + warp_columns - 1) / warp_columns;
  const auto [chunk, tile] = divide(int64_t{blockIdx.x} * warps_of_block + warp_of_thread(), tiles);
  const int64_t column = tile * warp_columns + lane_of_thread() * gradient_columns;
  const int count = elements_left<gradient_columns>(a.H, column);  // a lane beyond the end has none, and takes part in shuffles
  float sums[gradient_columns];
  int64_t token = -1;  // whose rows are being added
  const auto write = [&] {
    if (token < 0 || count == 0) return;
    const int64_t e = token * a.H + column;
    if constexpr (packed) {
      write_gradients(a.dtoken + e, sums, a.rule, static_cast<uint64_t>(e) / gradient_columns * gradient_columns);  // known as a multiple
    } else {
      write_gradient_elements(a.dtoken + e, sums, count, false, a.rule, static_cast<uint64_t>(e));
    }
  };
  for (int64_t first = chunk * chunk_positions; first <= a.N; first += warp_lanes) {
    const int64_t place = first + lane_of_thread();
    const int row = place < a.N ? a.order[place] : 0, own = place < a.N ? a.tokens[row] : -1;
    const int before = place > 0 && place < a.N ? a.tokens[a.order[place - 1]] : -1;
    const unsigned starts = __ballot_sync(all_lanes, own != before || place >= a.N);  // of a token, or of what lies beyond the last
    const int first_start = starts == 0 ? warp_lanes : __ffs(static_cast<int>(starts)) - 1;
    const bool own_chunk = first == chunk * chunk_positions;
    const int begin = own_chunk ? first_start : 0;
    const int end = own_chunk ? static_cast<int>(min(int64_t{warp_lanes}, a.N - first)) : first_start;
    for (int from = 0; from < warp_lanes; from += in_flight) {
      Elements<S, gradient_columns> rows[in_flight];
#pragma unroll
      for (int j = 0; j < in_flight; j++) {
        const int64_t its_row = __shfl_sync(all_lanes, row, from + j);
        if (from + j < begin || from + j >= end || count == 0) continue;
        rows[j] = load_elements<gradient_columns>(a.dh + its_row * a.H + column, packed ? gradient_columns : count, packed);
      }
#pragma unroll
      for (int j = 0; j < in_flight; j++) {
        const int its_token = __shfl_sync(all_lanes, own, from + j);
        if (from + j < begin || from + j >= end) continue;
        const bool starts_token = starts >> (from + j) & 1;
        if (starts_token) {
          write();
          token = its_token;
        }
#pragma unroll
        for (int i = 0; i < gradient_columns; i++) sums[i] = starts_token ? rows[j][i] : sums[i] + rows[j][i];
      }
    }
    if (own_chunk ? begin == warp_lanes : starts != 0) break;  // all of it belongs to the warp before; or the last token has ended
  }
  write();
}

/// dposition [T, H] of dh [sequences, T H], flat: each element is the sum of those T H apart, in order.
template <class G, class S>
__global__ void __launch_bounds__(flat_threads)
    position_backward_kernel(G* dposition, const S* dh, int64_t sequences, int64_t elements, const GradientRule rule, bool packed) {
  for (int64_t item = first_item(); item * gradient_columns < elements; item += items_apart()) {
    const int64_t at = item * gradient_columns;
    const int count = elements_left<gradient_columns>(elements, at);
    const Elements<S, gradient_columns> value = load_elements<gradient_columns>(dh + at, count, packed);
    float sums[gradient_columns];
#pragma unroll
    for (int i = 0; i < gradient_columns; i++) sums[i] = value[i];
#pragma unroll 4
    for (int64_t b = 1; b < sequences; b++) {
      const Elements<S, gradient_columns> added = load_elements<gradient_columns>(dh + b * elements + at, count, packed);
#pragma unroll
      for (int i = 0; i < gradient_columns; i++) sums[i] += added[i];
    }
    write_gradient_elements(dposition + at, sums, count, packed, rule, static_cast<uint64_t>(at));
  }
}

/// Zeros, contiguous.
void clear(const Tensor& tensor, cudaStream_t stream) {
  if (tensor.bytes() > 0) check(cudaMemsetAsync(tensor.data, 0, static_cast<size_t>(tensor.bytes()), stream), "cudaMemsetAsync");
}

/// body(type of the gradient, type of the rows).
template <class Body>
void with_types(const Tensor& gradient, const Tensor& rows, const Body& body) {
  with_storage(rows.dtype,
               [&]<class S>(S* type) { with_gradient_storage(gradient.dtype, [&]<class G>(G* of_gradient) { body(of_gradient, type); }); });
}

}  // namespace

void embedding_forward(const Tensor& h, const Tensor& tokens, const Tensor& token_weight, const Tensor& position_weight, int64_t T,
                       cudaStream_t stream) {
  if (h.elements() == 0) return;
  with_storage(h.dtype, [&]<class S>(S*) {
    const Embedding<S> a = {.h = elements_of<S>(h),
                            .tokens = elements_of<int32_t>(tokens),
                            .token_weight = elements_of<S>(token_weight),
                            .position_weight = elements_of<S>(position_weight),
                            .N = h.rows(),
                            .H = h.columns(),
                            .T = T,
                            .packed = all_packed(h, token_weight, position_weight)};
    launch(embedding_forward_kernel<S>, flat_grid(a.N * ((a.H + pack_size<S> - 1) / pack_size<S>)), stream, a);
  });
}

void token_embedding_backward(const Tensor& dtoken, const Tensor& dh, const Tensor& tokens, const Tensor& order, GradientWrite write,
                              const RandomStream& rounding, cudaStream_t stream) {
  if (write == GradientWrite::Overwrite) clear(dtoken, stream);  // a batch has few of the tokens
  if (dh.elements() == 0) return;
  with_types(dtoken, dh, [&]<class G, class S>(G*, S*) {
    const TokenBackward<G, S> a = {.dtoken = elements_of<G>(dtoken),
                                   .dh = elements_of<S>(dh),
                                   .tokens = elements_of<int32_t>(tokens),
                                   .order = elements_of<int32_t>(order),
                                   .N = dh.rows(),
                                   .H = dh.columns(),
                                   .rule = {write, rounding}};
    const bool packed = all_packed(dtoken, dh) && a.H % gradient_columns == 0;
    const int64_t warps = (a.N + chunk_positions - 1) / chunk_positions * ((a.H + warp_columns - 1) / warp_columns);
    launch(packed ? token_backward_kernel<G, S, true> : token_backward_kernel<G, S, false>,
           {blocks_for(warps, warps_of_block), warps_of_block * warp_lanes}, stream, a);
  });
}

void position_embedding_backward(const Tensor& dposition, const Tensor& dh, int64_t T, GradientWrite write, const RandomStream& rounding,
                                 cudaStream_t stream) {
  const int64_t summed = dh.rows() == 0 ? 0 : T, elements = summed * dh.columns();
  if (write == GradientWrite::Overwrite) clear(dposition.row_range(summed, dposition.rows()), stream);
  if (elements == 0) return;
  with_types(dposition, dh, [&]<class G, class S>(G*, S*) {
    const bool packed = is_packed(dposition.data, 0) && is_packed(dh.data, elements * bytes_of(dh.dtype));
    launch(position_backward_kernel<G, S>, flat_grid((elements + gradient_columns - 1) / gradient_columns), stream,
           elements_of<G>(dposition), elements_of<S>(dh), dh.rows() / T, elements, GradientRule{write, rounding}, packed);
  });
}

}  // namespace tessera::cuda
