// Around the matrix products: sums on their way to bf16 gradients, and sums over rows for bias gradients. All bound by memory.
#include "kernels/cuda/matmul_loops.h"

#include <algorithm>

#include "kernels/cuda/gradient.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/warp.h"

namespace tessera {
namespace {

using namespace cuda;

constexpr int block_threads = 128, block_warps = block_threads / warp_lanes;
constexpr int64_t most_blocks = int64_t{1} << 20;

// Eight elements a thread: as many as a counter of the generator has half words, and whole packs of both types.
constexpr int write_elements = 8;

/// gradient [n], sums [n]. `packed`: both at multiples of 16 bytes.
template <class T>
__global__ void __launch_bounds__(block_threads)
    write_sums_kernel(T* gradient, const float* sums, int64_t n, GradientRule rule, uint64_t first, bool packed) {
  const int64_t step = int64_t{gridDim.x} * block_threads * write_elements;
  for (int64_t i = (int64_t{blockIdx.x} * block_threads + threadIdx.x) * write_elements; i < n; i += step) {
    if (packed && i + write_elements <= n) {
      float values[write_elements];
      load_floats(values, sums + i);
      write_gradients(gradient + i, values, rule, first + static_cast<uint64_t>(i));
    } else {
      for (int64_t e = i; e < i + write_elements && e < n; e++)
        write_gradient(gradient + e, sums[e], rule, first + static_cast<uint64_t>(e));
    }
  }
}

// Rows are added in groups, a warp a quarter of one: one long sum would round more, and there would be too few threads.
constexpr int group_rows = 128, warp_rows = group_rows / block_warps;
template <class T>
constexpr int block_columns = warp_lanes* pack_size<T>;

/// Columns [column, column + pack) of a row as floats; zeros beyond `columns`.
template <class T>
__device__ __forceinline__ void load_row(float (&values)[pack_size<T>], const T* row, int64_t column, int64_t columns, bool packed) {
  if (packed && column + pack_size<T> <= columns) return load_floats(values, row + column);
#pragma unroll
  for (int i = 0; i < pack_size<T>; i++) values[i] = column + i < columns ? to_float(row[column + i]) : 0.0f;
}

template <class T>
struct ColumnSums {
  float of_warp[block_warps][block_columns<T>];
};

/// partial [groups, columns] = the sum of each group of rows of matrix [rows, columns]; blocks: for each group its columns.
template <class T>
__global__ void __launch_bounds__(block_threads)
    sum_groups_kernel(float* partial, const T* matrix, int64_t stride, int64_t rows, int64_t columns, int64_t column_blocks, bool packed) {
  constexpr int pack = pack_size<T>, rows_at_a_time = 8;  // 128 bytes in flight for each thread
  auto& of_warp = shared<ColumnSums<T>>().of_warp;
  const int64_t group = blockIdx.x / column_blocks, first_column = blockIdx.x % column_blocks * block_columns<T>;
  const int64_t column = first_column + lane_of_thread() * pack, first_row = group * group_rows + warp_of_thread() * warp_rows;
  float sums[pack] = {};
  for (int r = 0; r < warp_rows; r += rows_at_a_time) {
    float values[rows_at_a_time][pack] = {};
#pragma unroll
    for (int i = 0; i < rows_at_a_time; i++) {
      const int64_t row = first_row + r + i;
      if (row < rows && column < columns) load_row(values[i], matrix + row * stride, column, columns, packed);
    }
#pragma unroll
    for (int i = 0; i < rows_at_a_time; i++) {
#pragma unroll
      for (int c = 0; c < pack; c++) sums[c] += values[i][c];
    }
  }
#pragma unroll
  for (int c = 0; c < pack; c++) of_warp[warp_of_thread()][lane_of_thread() * pack + c] = sums[c];
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < block_columns<T> && first_column + c < columns; c += block_threads) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < block_warps; warp++) sum += of_warp[warp][c];
    partial[group * columns + first_column + c] = sum;
  }
}

struct GroupSums {
  float of_warp[block_warps][warp_lanes];
};

/// gradient [columns] = or += the sum of partial [groups, columns] over groups, which the warps of a block share; a lane for each column.
template <class T>
__global__ void __launch_bounds__(block_threads)
    add_groups_kernel(T* gradient, const float* partial, int64_t groups, int64_t columns, GradientRule rule, uint64_t first) {
  auto& of_warp = shared<GroupSums>().of_warp;
  const int64_t column = int64_t{blockIdx.x} * warp_lanes + lane_of_thread();
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t group = warp_of_thread(); group < groups; group += block_warps) sum += partial[group * columns + column];
  }
  of_warp[warp_of_thread()][lane_of_thread()] = sum;
  __syncthreads();
  if (warp_of_thread() > 0 || column >= columns) return;
  for (int warp = 1; warp < block_warps; warp++) sum += of_warp[warp][lane_of_thread()];
  write_gradient(gradient + column, sum, rule, first + static_cast<uint64_t>(column));
}

template <class T>
void sum_groups(float* partial, const Tensor& matrix, int64_t groups, cudaStream_t stream) {
  const int64_t column_blocks = (matrix.columns() + block_columns<T> - 1) / block_columns<T>;
  const bool packed = is_packed(matrix.data, matrix.row_stride() * static_cast<int64_t>(sizeof(T)));
  launch(sum_groups_kernel<T>, {blocks_for(groups * column_blocks, 1), block_threads}, stream, partial, static_cast<const T*>(matrix.data),
         matrix.row_stride(), matrix.rows(), matrix.columns(), column_blocks, packed);
}

}  // namespace

void write_sums(Tensor gradient, const float* sums, GradientWrite write, const RandomStream& rounding, uint64_t first,
                cudaStream_t stream) {
  const int64_t n = gradient.elements();
  const auto blocks =
      static_cast<unsigned>(std::min(most_blocks, (n + block_threads * write_elements - 1) / (block_threads * write_elements)));
  const bool packed = is_packed(gradient.data, 0) && is_packed(sums, 0);
  with_gradient_storage(gradient.dtype, [&]<class T>(T*) {
    launch(write_sums_kernel<T>, {blocks, block_threads}, stream, static_cast<T*>(gradient.data), sums, n, GradientRule{write, rounding},
           first, packed);
  });
}

void write_column_sums(Tensor dbias, const Tensor& dy, GradientWrite write, const RandomStream& rounding, uint64_t first,
                       std::span<std::byte> workspace, cudaStream_t stream) {
  const int64_t O = dy.columns(), groups = (dy.rows() + group_rows - 1) / group_rows;
  int64_t at_a_time = std::min(O, static_cast<int64_t>(workspace.size() / sizeof(float)) / groups);
  if (at_a_time < O && at_a_time > warp_lanes) at_a_time -= at_a_time % warp_lanes;  // whole packs
  invariant(at_a_time > 0, "the partial sums of a bias gradient are longer than the workspace");
  auto* partial = reinterpret_cast<float*>(workspace.data());
  for (int64_t begin = 0; begin < O; begin += at_a_time) {
    const int64_t end = std::min(O, begin + at_a_time);
    with_storage(dy.dtype, [&]<class T>(T*) { sum_groups<T>(partial, dy.column_range(begin, end), groups, stream); });
    with_gradient_storage(dbias.dtype, [&]<class T>(T*) {
      launch(add_groups_kernel<T>, {blocks_for(end - begin, warp_lanes), block_threads}, stream, static_cast<T*>(dbias.data) + begin,
             static_cast<const float*>(partial), groups, end - begin, GradientRule{write, rounding}, first + static_cast<uint64_t>(begin));
    });
  }
}

}  // namespace tessera
