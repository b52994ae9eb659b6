// Rotary positions: each pair of channels (i, i + D/2) of a head turns by the angle of its position, whose cosine and sine the table holds.
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rotary.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

/// The heads of a row share their cosines and sines, which stand in registers meanwhile. `sign` -1 turns back.
template <class T>
HWY_INLINE void turn_row(T* row, int64_t columns, const float* cosines, int64_t D, float sign) {
  const int64_t pairs = D / 2;
  const float* sines = cosines + pairs;
  for_each_vector(pairs, [=](auto d, int64_t i) HWY_ATTR {
    const auto c = hn::LoadU(d, cosines + i), s = hn::Mul(hn::Set(d, sign), hn::LoadU(d, sines + i));
    for (T *first = row + i, *end = row + columns; first < end; first += D) {
      const auto a = load(d, first), b = load(d, first + pairs);
      store(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, first);
      store(hn::MulAdd(a, s, hn::Mul(b, c)), d, first + pairs);
    }
  });
}

void rotary_loop(const Tensor& x, const Tensor& table, Turn turn, int64_t begin, int64_t end) {
  const int64_t T = table.rows(), D = table.columns(), columns = x.columns(), stride = x.row_stride();
  const float sign = turn == Turn::Forward ? 1.0f : -1.0f;
  with_storage(x.dtype, [&]<class S>(S*) HWY_ATTR {
    // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): the public op refuses an empty table
    for (int64_t r = begin; r < end; r++) turn_row(x.as<S>() + r * stride, columns, table.as<float>() + r % T * D, D, sign);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {
HWY_EXPORT(rotary_loop);
}  // namespace

void rotary_rows(const Tensor& x, const Tensor& table, Turn turn, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(rotary_loop)(x, table, turn, begin, end);
}

}  // namespace tessera
#endif
