// Philox 4x32 on vectors: the words of base/random.h bit for bit, several counters at a time.
// Included once for each instruction set, after hwy/foreach_target.h (Highway's "-inl" convention).
#if defined(TESSERA_KERNELS_CPU_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_KERNELS_CPU_PHILOX_INL_H_
#undef TESSERA_KERNELS_CPU_PHILOX_INL_H_
#else
#define TESSERA_KERNELS_CPU_PHILOX_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "base/random.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR
/// The four words of as many counters as a vector has 64-bit lanes. A word stands in the lower half of its lane; what multiplications leave
/// above it is never read, since they take the lower halves alone.
template <class D>
struct PhiloxWords {
  using V = hn::Vec<D>;
  V w0, w1, w2, w3;

  HWY_INLINE PhiloxWords(D d, uint64_t counter, uint64_t step)
      : w0(hn::Add(hn::Iota(d, 0), hn::Set(d, counter))), w1(hn::ShiftRight<32>(w0)), w2(hn::Set(d, step)), w3(hn::ShiftRight<32>(w2)) {}

  HWY_INLINE void mix(D d, uint32_t key0, uint32_t key1) {
    const hn::RepartitionToNarrow<D> words;
    const V left = hn::MulEven(hn::BitCast(words, w0), hn::Set(words, 0xD2511F53u));
    const V right = hn::MulEven(hn::BitCast(words, w2), hn::Set(words, 0xCD9E8D57u));
    w0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(right), w1), hn::Set(d, uint64_t{key0}));
    w2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(left), w3), hn::Set(d, uint64_t{key1}));
    w1 = right, w3 = left;
  }

  HWY_INLINE void write(D, uint32_t* even, uint32_t* odd) const {
    const hn::RepartitionToNarrow<D> words;
    hn::StoreU(hn::OddEven(hn::BitCast(words, hn::ShiftLeft<32>(w2)), hn::BitCast(words, w0)), words, even);
    hn::StoreU(hn::OddEven(hn::BitCast(words, hn::ShiftLeft<32>(w3)), hn::BitCast(words, w1)), words, odd);
  }
};
#endif

/// Words 0 and 2 of counters [begin, begin + count) to `even`, words 1 and 3 to `odd`, 2 count words each. With two elements to a counter,
/// even[e] is half words 4 e (low) and 4 e + 1 (high) of element e, odd[e] is half words 4 e + 2 and 4 e + 3.
inline void philox_words(const RandomStream& stream, uint64_t begin, int64_t count, uint32_t* even, uint32_t* odd) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<uint64_t> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (; i + 2 * lanes <= count; i += 2 * lanes) {  // two vectors at a time hide the latency of the multiplications
    PhiloxWords<decltype(d)> a(d, begin + static_cast<uint64_t>(i), stream.step());
    PhiloxWords<decltype(d)> b(d, begin + static_cast<uint64_t>(i + lanes), stream.step());
    uint32_t key0 = stream.key()[0], key1 = stream.key()[1];
    for (int round = 0; round < 10; round++) {
      a.mix(d, key0, key1);
      b.mix(d, key0, key1);
      key0 += 0x9E3779B9, key1 += 0xBB67AE85;
    }
    a.write(d, even + 2 * i, odd + 2 * i);
    b.write(d, even + 2 * (i + lanes), odd + 2 * (i + lanes));
  }
#endif
  for (; i < count; i++) {
    const auto drawn = stream.words(begin + static_cast<uint64_t>(i));
    even[2 * i] = drawn[0], even[2 * i + 1] = drawn[2];
    odd[2 * i] = drawn[1], odd[2 * i + 1] = drawn[3];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();
#endif
