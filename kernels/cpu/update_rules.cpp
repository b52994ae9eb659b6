// The update rules: one pass over master weights, states and gradient, at the speed of memory. The arithmetic is fp32; what is stored
// otherwise passes through small blocks on the stack, so that a rule is compiled once and not once for each combination of types.
#include <algorithm>

#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/update_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/update_rules.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/simd_storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

/// Elements [0, n) of a block; `first` and `second` are null where the rule keeps none.
template <UpdateRule rule>
void apply(const UpdateFactors& factors, float* weight, const float* gradient, float* first, float* second, int64_t n) {
  const UpdateFactors f = factors;  // a copy: stores to the tensors cannot change it
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    const auto rate = hn::Set(d, f.learning_rate), w = hn::LoadU(d, weight + i);
    auto g = hn::Mul(hn::Set(d, f.gradient_factor), hn::LoadU(d, gradient + i));
    if constexpr (rule != UpdateRule::AdamW) g = hn::MulAdd(hn::Set(d, f.decay), w, g);
    if constexpr (rule == UpdateRule::Sgd) {
      hn::StoreU(hn::NegMulAdd(rate, g, w), d, weight + i);
    } else if constexpr (rule == UpdateRule::Momentum) {
      const auto m = hn::MulAdd(hn::Set(d, f.beta1), hn::LoadU(d, first + i), g);
      hn::StoreU(m, d, first + i);
      hn::StoreU(hn::NegMulAdd(rate, m, w), d, weight + i);
    } else if constexpr (rule == UpdateRule::AdaGrad) {
      const auto sum = hn::MulAdd(g, g, hn::LoadU(d, first + i));
      hn::StoreU(sum, d, first + i);
      hn::StoreU(hn::Sub(w, hn::Div(hn::Mul(rate, g), hn::Add(hn::Sqrt(sum), hn::Set(d, f.epsilon)))), d, weight + i);
    } else {
      const auto m = hn::MulAdd(hn::Set(d, f.beta1), hn::LoadU(d, first + i), hn::Mul(hn::Set(d, f.one_minus_beta1), g));
      const auto v = hn::MulAdd(hn::Set(d, f.beta2), hn::LoadU(d, second + i), hn::Mul(hn::Set(d, f.one_minus_beta2), hn::Mul(g, g)));
      const auto denominator = hn::MulAdd(hn::Sqrt(v), hn::Set(d, f.v_scale), hn::Set(d, f.epsilon));
      auto step = hn::Div(hn::Mul(hn::Set(d, f.m_scale), m), denominator);
      if constexpr (rule == UpdateRule::AdamW) step = hn::MulAdd(hn::Set(d, f.decay), w, step);
      hn::StoreU(m, d, first + i);
      hn::StoreU(v, d, second + i);
      hn::StoreU(hn::Sub(w, step), d, weight + i);
    }
  });
}

using RuleBody = void (*)(const UpdateFactors&, float*, const float*, float*, float*, int64_t);

RuleBody body_of(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::Sgd:
      return apply<UpdateRule::Sgd>;
    case UpdateRule::Momentum:
      return apply<UpdateRule::Momentum>;
    case UpdateRule::AdaGrad:
      return apply<UpdateRule::AdaGrad>;
    case UpdateRule::Adam:
      return apply<UpdateRule::Adam>;
    default:
      return apply<UpdateRule::AdamW>;
  }
}

constexpr int64_t block_elements = 512;

/// Elements [begin, begin + n) in fp32: where they lie, or converted to `room`. Null for a state that the rule does not keep.
float* in_fp32(const Tensor& tensor, int64_t begin, int64_t n, float* room) {
  if (tensor.empty()) return nullptr;
  if (tensor.dtype == DType::f32) return tensor.as<float>() + begin;
  const bf16_t* from = tensor.as<bf16_t>() + begin;
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR { store(load(d, from + i), d, room + i); });
  return room;
}

/// What in_fp32 gave, back to bf16: rounded stochastically by the lower or upper halves of `random`. fp32 was changed in place.
template <int shift>
void put_back(const Tensor& tensor, int64_t begin, int64_t n, const float* values, const uint32_t* random) {
  if (tensor.empty() || tensor.dtype == DType::f32) return;
  bf16_t* to = tensor.as<bf16_t>() + begin;
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(d)> words;
    const auto half_words = hn::And(hn::ShiftRight<shift>(hn::LoadU(words, random + i)), hn::Set(words, 0xFFFFu));
    store_stochastically(hn::LoadU(d, values + i), half_words, d, to + i);
  });
}

/// weight = values, rounded to nearest; `past_caches`: where it lies right for that.
void copy_to(const Tensor& weight, int64_t begin, int64_t n, const float* values, bool past_caches) {
  with_storage(weight.dtype, [=]<class T>(T*) HWY_ATTR {
    const hn::ScalableTag<float> whole;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(whole));
    T* to = weight.as<T>() + begin;
    int64_t streamed = 0;
    if (past_caches && reinterpret_cast<uintptr_t>(to) % (lanes * sizeof(T)) == 0) {
      for (; streamed + lanes <= n; streamed += lanes) stream(hn::LoadU(whole, values + streamed), whole, to + streamed);
    }
    for_each_vector(n - streamed, [=](auto d, int64_t i) HWY_ATTR { store(hn::LoadU(d, values + streamed + i), d, to + streamed + i); });
  });
}

/// From here on a shard's weights are cast out of the caches before the forward reads them, by the states of their neighbours if not by
/// their own.
constexpr int64_t streamed_elements = int64_t{1} << 20;

void update_loop(UpdateRule rule, const UpdateShard& shard, int64_t begin, int64_t end, const UpdateFactors& factors,
                 const RandomStream& rounding, int64_t element) {
  const RuleBody apply_rule = body_of(rule);
  const auto in_bf16 = [](const Tensor& tensor) { return !tensor.empty() && tensor.dtype == DType::bf16; };
  const bool rounds = in_bf16(shard.master) || in_bf16(shard.first) || in_bf16(shard.second);
  const bool past_caches = can_stream && shard.weight.elements() >= streamed_elements;
  HWY_ALIGN float room[4][block_elements];
  HWY_ALIGN uint32_t even[block_elements + 2], odd[block_elements + 2];
  for (int64_t i = begin; i < end; i += block_elements) {
    const int64_t n = std::min(block_elements, end - i), here = element + i - begin;
    float *master = in_fp32(shard.master, i, n, room[0]), *first = in_fp32(shard.first, i, n, room[1]),
          *second = in_fp32(shard.second, i, n, room[2]);
    apply_rule(factors, master, in_fp32(shard.gradient, i, n, room[3]), first, second, n);
    if (rounds) {
      const int64_t behind = here % 2;  // a counter serves two elements
      philox_words(rounding, static_cast<uint64_t>(here / 2), (behind + n + 1) / 2, even, odd);
      put_back<0>(shard.master, i, n, master, even + behind);
      put_back<16>(shard.first, i, n, first, even + behind);
      put_back<0>(shard.second, i, n, second, odd + behind);
    }
    if (!shard.weight.empty()) copy_to(shard.weight, i, n, in_fp32(shard.master, i, n, room[0]), past_caches);
  }
  if (past_caches) hwy::FlushStream();
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(update_loop);

void update_range(UpdateRule rule, const UpdateShard& shard, int64_t begin, int64_t end, const UpdateFactors& factors,
                  const RandomStream& rounding, int64_t element) {
  HWY_DYNAMIC_DISPATCH(update_loop)(rule, shard, begin, end, factors, rounding, element);
}

}  // namespace tessera
#endif
