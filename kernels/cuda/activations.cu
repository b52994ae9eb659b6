// GELU and SwiGLU: the formulas of kernels/cpu/activations.cpp. Bound by memory, though not by much: in bf16 an element has time for about
// 25 instructions at 4.8 TB/s. So one exponential and one quotient, approximate in 16 bits, are all that an element costs.
#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/storage.h"
#include "kernels/cuda/transform.h"

namespace tessera::cuda {
namespace {

constexpr float log2_e = 1.4426950408889634f;
constexpr float gelu_linear = 1.5957691216057308f;  // 2 sqrt(2/pi):   2u = x (linear + cubic x^2)
constexpr float gelu_cubic = 1.5957691216057308f * 0.044715f;

/// 2^t; what lies outside [-126, 122] counts as the nearer end, so that products with 1 / (1 + 2^t) stay numbers. Not NaN where t is:
/// callers multiply by what made it so.
__device__ __forceinline__ float clamped_power_of_2(float t) { return exp2f(fmaxf(-126.0f, fminf(t, 122.0f))); }

/// a / b. Within 2 ulp of fp32 where the result is stored in 16 bits; fp32 would show them, and has twice the time.
template <class T>
__device__ __forceinline__ float quotient(float a, float b) {
  if constexpr (sizeof(T) == 4) return a / b;
  return __fdividef(a, b);
}

/// e^-2u.
__device__ __forceinline__ float gelu_exponential(float x, float square) {
  return clamped_power_of_2(x * fmaf(square, -log2_e * gelu_cubic, -log2_e * gelu_linear));
}

/// y = x / (1 + e^-2u).
template <class T>
struct Gelu {
  __device__ __forceinline__ float operator()(const float (&in)[1]) const {
    return quotient<T>(in[0], 1 + gelu_exponential(in[0], in[0] * in[0]));
  }
};

/// dx = dy y', from dy and x. With f = 1 / (1 + e):   y' = f + x f (1 - f) (2u)',   and 1 - f = e f does not cancel.
template <class T>
struct GeluGradient {
  __device__ __forceinline__ float operator()(const float (&in)[2]) const {
    const float x = in[1], square = x * x, e = gelu_exponential(x, square), f = quotient<T>(1, 1 + e);
    const float slope = fmaf(square, 3 * gelu_cubic, gelu_linear);
    return in[0] * fmaf(x * slope, e * f * f, f);
  }
};

/// y [N, F] = gate sigmoid(gate) up, gate_up [N, 2 F]. A thread takes one pack of a row; an SM has 64 KiB in flight.
template <class T>
__global__ void __launch_bounds__(flat_threads) swiglu_forward_kernel(T* y, const T* gate_up, int64_t N, int64_t F, bool packed) {
  constexpr int width = pack_size<T>;
  const int64_t packs = (F + width - 1) / width;
  for (int64_t item = first_item(); item < N * packs; item += items_apart()) {
    const auto [row, pack] = divide(item, packs);
    const int64_t column = pack * width;
    const int count = elements_left<width>(F, column);
    const T* gate_address = gate_up + row * 2 * F + column;
    const Elements<T, width> gate = load_elements<width>(gate_address, count, packed),
                             up = load_elements<width>(gate_address + F, count, packed);
    Elements<T, width> result;
#pragma unroll
    for (int i = 0; i < width; i++) result.set(i, quotient<T>(gate[i], 1 + clamped_power_of_2(-log2_e * gate[i])) * up[i]);
    store_elements(y + row * F + column, result, count, packed);
  }
}

/// dgate_up [N, 2 F] from dy [N, F]; it may be gate_up. With f = sigmoid(gate) = 1 / (1 + e):
/// dup = dy gate f,   dgate = dy up f (1 + gate (1 - f)).
template <class T>
__global__ void __launch_bounds__(flat_threads)
    swiglu_backward_kernel(T* dgate_up, const T* dy, const T* gate_up, int64_t N, int64_t F, bool packed) {
  constexpr int width = pack_size<T>;
  const int64_t packs = (F + width - 1) / width;
  for (int64_t item = first_item(); item < N * packs; item += items_apart()) {
    const auto [row, pack] = divide(item, packs);
    const int64_t column = pack * width, at = row * 2 * F + column;
    const int count = elements_left<width>(F, column);
    const Elements<T, width> in = load_elements<width>(dy + row * F + column, count, packed);
    const Elements<T, width> gate = load_elements<width>(gate_up + at, count, packed),
                             up = load_elements<width>(gate_up + at + F, count, packed);
    Elements<T, width> dgate, dup;
#pragma unroll
    for (int i = 0; i < width; i++) {
      const float g = gate[i], e = clamped_power_of_2(-log2_e * g), f = quotient<T>(1, 1 + e), dy_f = in[i] * f;
      dgate.set(i, dy_f * up[i] * fmaf(g, e * f, 1));
      dup.set(i, dy_f * g);
    }
    store_elements(dgate_up + at, dgate, count, packed);
    store_elements(dgate_up + at + F, dup, count, packed);
  }
}

/// Whether gates, ups and rows of y all start at multiples of 16 bytes.
bool rows_packed(const Tensor& y) { return is_packed(y.data, y.columns() * bytes_of(y.dtype)); }

template <class T>
LaunchShape grid_of(const Tensor& y, Where where = Where::here()) {
  return flat_grid(y.rows() * ((y.columns() + pack_size<T> - 1) / pack_size<T>), where);
}

}  // namespace

void gelu_forward(const Tensor& y, const Tensor& x, cudaStream_t stream) {
  with_storage(x.dtype, [&]<class T>(T*) { transform<T, T>(y, Gelu<T>{}, stream, x); });
}

void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, cudaStream_t stream) {
  with_storage(x.dtype, [&]<class T>(T*) { transform<T, T>(dx, GeluGradient<T>{}, stream, dy, x); });
}

void swiglu_forward(const Tensor& y, const Tensor& gate_up, cudaStream_t stream) {
  if (y.elements() == 0) return;
  with_storage(y.dtype, [&]<class T>(T*) {
    launch(swiglu_forward_kernel<T>, grid_of<T>(y), stream, elements_of<T>(y), elements_of<T>(gate_up), y.rows(), y.columns(),
           rows_packed(y) && is_packed(gate_up.data, 0));
  });
}

void swiglu_backward(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, cudaStream_t stream) {
  if (dy.elements() == 0) return;
  with_storage(dy.dtype, [&]<class T>(T*) {
    launch(swiglu_backward_kernel<T>, grid_of<T>(dy), stream, elements_of<T>(dgate_up), elements_of<T>(dy), elements_of<T>(gate_up),
           dy.rows(), dy.columns(), rows_packed(dy) && is_packed(gate_up.data, 0) && is_packed(dgate_up.data, 0));
  });
}

}  // namespace tessera::cuda
