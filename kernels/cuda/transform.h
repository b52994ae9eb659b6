#pragma once
// out[i] = function(in[0][i], in[1][i], ...) over whole tensors. Bound by memory: a thread has four accesses of 16 bytes to each input in
// flight before it computes.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/flat_grid.h"

namespace tessera::cuda {

template <class T, int inputs>
struct Inputs {
  const T* of[inputs];
};

/// out, in [n]; out may be one of the inputs. Function: float(const float (&)[inputs]), rounded once.
template <class Out, class In, int inputs, class Function>
__global__ void __launch_bounds__(flat_threads)
    transform_kernel(Out* out, const Inputs<In, inputs> in, int64_t n, bool packed, Function function) {
  // The wider type sets the width, so that neighbours' accesses touch each other on both sides: 16 bytes there, 8 on the other.
  constexpr int width = pack_size<Out> < pack_size<In> ? pack_size<Out> : pack_size<In>, together = 4;
  constexpr int64_t tile = int64_t{flat_threads} * width * together;
  for (int64_t first = blockIdx.x * tile + threadIdx.x * width; first < n; first += gridDim.x * tile) {
    Elements<In, width> values[together][inputs];
#pragma unroll
    for (int k = 0; k < together; k++) {
      const int64_t at = first + k * flat_threads * width;
#pragma unroll
      for (int j = 0; j < inputs; j++) values[k][j] = load_elements<width>(in.of[j] + at, elements_left<width>(n, at), packed);
    }
#pragma unroll
    for (int k = 0; k < together; k++) {
      const int64_t at = first + k * flat_threads * width;
      Elements<Out, width> results;
#pragma unroll
      for (int i = 0; i < width; i++) {
        float x[inputs];
#pragma unroll
        for (int j = 0; j < inputs; j++) x[j] = values[k][j][i];
        results.set(i, function(x));
      }
      store_elements(out + at, results, elements_left<width>(n, at), packed);
    }
  }
}

/// Contiguous tensors of one shape.
template <class Out, class In, class Function, class... Ins>
void transform(const Tensor& out, const Function& function, cudaStream_t stream, const Ins&... in) {
  const int64_t n = out.elements();
  if (n == 0) return;
  constexpr int elements_of_thread = 4 * (pack_size<Out> < pack_size<In> ? pack_size<Out> : pack_size<In>);
  const int64_t threads = (n + elements_of_thread - 1) / elements_of_thread;
  launch(transform_kernel<Out, In, sizeof...(in), Function>, flat_grid(threads), stream, elements_of<Out>(out),
         Inputs<In, sizeof...(in)>{{elements_of<In>(in)...}}, n, is_packed(out.data, 0) && (is_packed(in.data, 0) && ...), function);
}

}  // namespace tessera::cuda
