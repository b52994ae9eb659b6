// The norms' weight gradients: each block sums a chunk of rows for its columns, then the chunks' sums are added. Both orders are fixed by N
// and H. Bound by memory: dn and h are read once, and of sums there are at most 4 MiB, which stay in the L2 cache.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm_kernels.h"
#include "kernels/cuda/norm_rows.h"

namespace tessera::cuda {
namespace {

constexpr int warps = 4, threads = warps * warp_lanes;
constexpr int block_columns = warp_lanes * norm_columns;
constexpr int64_t blocks_wanted = 2048;  // 15 for each of 132 multiprocessors
constexpr int64_t least_chunk_rows = 16;

/// dn, h [N, H]; mean, rstd [N]; sums [chunks, terms, H]: term 0 is of dn x, term 1, in layer norm, of dn.
template <class T>
struct ChunkSums {
  float* sums;
  Rows<const T> dn, h;
  const float *mean, *rstd;
  int64_t N, H, chunk_rows;
  bool packed, sums_packed;
};

constexpr int terms_of(bool layer_norm) { return layer_norm ? 2 : 1; }

template <int terms>
struct WarpSums {
  float of_warp[warps - 1][terms * norm_columns][warp_lanes];  // of all warps but the first
};

/// Block (tile of columns, chunk): its warps take every fourth row, each lane eight columns.
template <class T, bool layer_norm>
__global__ void __launch_bounds__(threads) chunk_sums_kernel(const ChunkSums<T> a) {
  constexpr int terms = terms_of(layer_norm);
  const int lane = lane_of_thread(), warp = warp_of_thread();
  const int64_t column = int64_t{blockIdx.x} * block_columns + lane * norm_columns;
  const int64_t first = blockIdx.y * a.chunk_rows, last = min(first + a.chunk_rows, a.N);
  const int count = elements_left<norm_columns>(a.H, column);  // a lane beyond the end has none, and comes to the barrier
  float sums[terms][norm_columns] = {};
  if (count > 0) {
#pragma unroll 4
    for (int64_t r = first + warp; r < last; r += warps) {
      const NormElements<T> dn = load_elements<norm_columns>(a.dn[r] + column, count, a.packed);
      const NormElements<T> h = load_elements<norm_columns>(a.h[r] + column, count, a.packed);
      const float m = layer_norm ? a.mean[r] : 0, s = a.rstd[r];
#pragma unroll
      for (int i = 0; i < norm_columns; i++) {
        sums[0][i] = fmaf(dn[i], (h[i] - m) * s, sums[0][i]);
        if constexpr (layer_norm) sums[1][i] += dn[i];
      }
    }
  }
  auto& of_warp = shared<WarpSums<terms>>().of_warp;
  if (warp > 0) {
#pragma unroll
    for (int k = 0; k < terms * norm_columns; k++) of_warp[warp - 1][k][lane] = sums[k / norm_columns][k % norm_columns];
  }
  __syncthreads();
  if (warp > 0 || count == 0) return;
#pragma unroll
  for (int term = 0; term < terms; term++) {
    Elements<float, norm_columns> total;
#pragma unroll
    for (int i = 0; i < norm_columns; i++) {
      float sum = sums[term][i];
#pragma unroll
      for (int other = 0; other < warps - 1; other++) sum += of_warp[other][term * norm_columns + i][lane];
      total.set(i, sum);
    }
    store_elements(a.sums + (int64_t{blockIdx.y} * terms + term) * a.H + column, total, count, a.sums_packed);
  }
}

constexpr int columns_together = 8, lanes_of_column = threads / columns_together;  // 32 bytes, the least that memory gives

struct ColumnSums {
  float of_lane[lanes_of_column][columns_together];
};

/// dweight = or += sums[:, 0], dbias = or += sums[:, 1]: element e of [terms, H] by half word e. Sixteen threads of a column take every
/// sixteenth chunk each; their sums are added in order.
template <class G>
__global__ void __launch_bounds__(threads)
    add_chunks_kernel(G* dweight, G* dbias, const float* sums, int64_t chunks, int64_t H, int terms, const GradientRule rule) {
  const int at = static_cast<int>(threadIdx.x) % columns_together, lane = static_cast<int>(threadIdx.x) / columns_together;
  const int64_t elements = terms * H, e = int64_t{blockIdx.x} * columns_together + at;
  float sum = 0;
  if (e < elements) {
#pragma unroll 4
    for (int64_t chunk = lane; chunk < chunks; chunk += lanes_of_column) sum += sums[chunk * elements + e];
  }
  auto& of_lane = shared<ColumnSums>().of_lane;
  of_lane[lane][at] = sum;
  __syncthreads();
  if (lane > 0 || e >= elements) return;
  for (int other = 1; other < lanes_of_column; other++) sum += of_lane[other][at];
  write_gradient(e < H ? dweight + e : dbias + (e - H), sum, rule, static_cast<uint64_t>(e));
}

/// As many as keep the GPU busy, of 16 rows at least: not a function of the GPU, so that its bits are not either.
int64_t chunks_of(int64_t N, int64_t H) {
  const int64_t tiles = blocks_for(H, block_columns);
  return std::min((N + least_chunk_rows - 1) / least_chunk_rows, (blocks_wanted + tiles - 1) / tiles);
}

}  // namespace

void norm_backward_weight(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                          const Tensor& rstd, GradientWrite write, const RandomStream& rounding, const CudaContext& context,
                          cudaStream_t stream) {
  const int64_t N = h.rows(), H = dweight.elements();
  const bool layer_norm = !mean.empty();
  if (H == 0) return;
  const int terms = terms_of(layer_norm);
  const int64_t wanted = chunks_of(N, H), chunk_rows = wanted == 0 ? 0 : (N + wanted - 1) / wanted;
  const int64_t chunks = wanted == 0 ? 0 : (N + chunk_rows - 1) / chunk_rows;  // none of them without rows
  // blocks_wanted * block_columns * terms floats, 4 MiB; more only where one chunk alone is longer.
  if (chunks * terms * H * static_cast<int64_t>(sizeof(float)) > context.workspace.bytes()) {
    throw InternalError("the sums of a norm's weight gradients do not fit the workspace: H = " + std::to_string(H));
  }
  float* sums = static_cast<float*>(context.workspace.data);
  if (chunks > 0) {
    with_storage(h.dtype, [&]<class T>(T*) {
      const ChunkSums<T> a = {.sums = sums,
                              .dn = rows_of<const T>(dn),
                              .h = rows_of<const T>(h),
                              .mean = elements_of<float>(mean),
                              .rstd = elements_of<float>(rstd),
                              .N = N,
                              .H = H,
                              .chunk_rows = chunk_rows,
                              .packed = all_packed(dn, h),
                              .sums_packed = is_packed(sums, H * static_cast<int64_t>(sizeof(float)))};
      const dim3 grid(blocks_for(H, block_columns), static_cast<unsigned>(chunks));
      launch(layer_norm ? chunk_sums_kernel<T, true> : chunk_sums_kernel<T, false>, {grid, threads}, stream, a);
    });
  }
  with_gradient_storage(dweight.dtype, [&]<class G>(G*) {
    launch(add_chunks_kernel<G>, {blocks_for(terms * H, columns_together), threads}, stream, elements_of<G>(dweight), elements_of<G>(dbias),
           sums, chunks, H, terms, GradientRule{write, rounding});
  });
}

}  // namespace tessera::cuda
