// The elementwise family on the CPU: how its ops are cut between threads, and the simplest of its loops.
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {
namespace {

/// Large arrays past the caches: nobody reads zeros before the caches have seen much else.
void zero_loop(char* to, int64_t n) {
  constexpr int64_t streamed_bytes = int64_t{1} << 20;
  const hn::ScalableTag<uint8_t> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % lanes);
  int64_t done = 0;
  if (can_stream && n >= streamed_bytes) {
    done = (lanes - misplaced) % lanes;
    std::memset(to, 0, static_cast<size_t>(done));
    for (; done + lanes <= n; done += lanes) hn::Stream(hn::Zero(d), d, reinterpret_cast<uint8_t*>(to) + done);
    hwy::FlushStream();
  }
  std::memset(to + done, 0, static_cast<size_t>(n - done));
}

void cast_loop(const Tensor& to_tensor, const Tensor& from_tensor, float factor, int64_t begin, int64_t end) {
  with_storage(from_tensor.dtype, [&]<class From>(From*) {
    with_storage(to_tensor.dtype, [&]<class To>(To*) HWY_ATTR {
      const From* from = from_tensor.as<From>() + begin;
      To* to = to_tensor.as<To>() + begin;
      for_each_vector(end - begin, [=](auto d, int64_t i) HWY_ATTR { store(hn::Mul(hn::Set(d, factor), load(d, from + i)), d, to + i); });
    });
  });
}

void add_loop(const Tensor& out_tensor, const Tensor& a, const Tensor& b, int64_t begin, int64_t end) {
  with_storage(out_tensor.dtype, [&]<class T>(T*) HWY_ATTR {
    transform<T>(end - begin, {a.as<T>() + begin, b.as<T>() + begin}, {out_tensor.as<T>() + begin},
                 [](auto, const auto& in, auto& out) HWY_ATTR { out[0] = hn::Add(in[0], in[1]); });
  });
}

void ordered_sum_loop(const Tensor& out_tensor, const Tensor& pieces_tensor, int64_t begin, int64_t end) {
  const int64_t R = pieces_tensor.shape[0], n = pieces_tensor.shape[1];
  with_storage(out_tensor.dtype, [&]<class T>(T*) HWY_ATTR {
    const T* pieces = pieces_tensor.as<T>() + begin;
    T* out = out_tensor.as<T>() + begin;
    for_each_vector(end - begin, [=](auto d, int64_t i) HWY_ATTR {
      auto sum = load(d, pieces + i);
      for (int64_t k = 1; k < R; k++) sum = hn::Add(sum, load(d, pieces + k * n + i));
      store(sum, d, out + i);
    });
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
namespace {
HWY_EXPORT(zero_loop);
HWY_EXPORT(cast_loop);
HWY_EXPORT(add_loop);
HWY_EXPORT(ordered_sum_loop);
}  // namespace

void cast_range(const Tensor& to, const Tensor& from, float factor, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(cast_loop)(to, from, factor, begin, end);
}
void add_range(const Tensor& out, const Tensor& a, const Tensor& b, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(add_loop)(out, a, b, begin, end);
}
void ordered_sum_range(const Tensor& out, const Tensor& pieces, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(ordered_sum_loop)(out, pieces, begin, end);
}

namespace {

class CpuElementwiseOps : public ElementwiseOps {
 public:
  explicit CpuElementwiseOps(int threads) : threads_(threads) {}

 private:
  void do_zero(Tensor t, Stream&) override {
    char* to = static_cast<char*>(t.data);
    parallel_ranges(t.bytes(), line_bytes, 1, threads_, [=](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(zero_loop)(to + begin, end - begin);
    });
  }

  void do_copy(Tensor to_tensor, Tensor from_tensor, Stream&) override {
    char* to = static_cast<char*>(to_tensor.data);
    const char* from = static_cast<const char*>(from_tensor.data);
    if (to == from) return;
    parallel_ranges(to_tensor.bytes(), line_bytes, 1, threads_,
                    [=](int64_t begin, int64_t end) { std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin)); });
  }

  void do_cast(Tensor to, Tensor from, float factor, Stream&) override {
    for_each_range(to.elements(), [&](int64_t begin, int64_t end) { cast_range(to, from, factor, begin, end); });
  }

  void do_add(Tensor out, Tensor a, Tensor b, Stream&) override {
    for_each_range(out.elements(), [&](int64_t begin, int64_t end) { add_range(out, a, b, begin, end); });
  }

  void do_gelu_forward(Tensor y, Tensor x, Stream&) override {
    for_each_range(x.elements(), [&](int64_t begin, int64_t end) { gelu_forward_range(y, x, begin, end); });
  }

  void do_gelu_backward(Tensor dx, Tensor dy, Tensor x, Stream&) override {
    for_each_range(x.elements(), [&](int64_t begin, int64_t end) { gelu_backward_range(dx, dy, x, begin, end); });
  }

  void do_swiglu_forward(Tensor y, Tensor gate_up, Stream&) override {
    for_each_row(gate_up, [&](int64_t begin, int64_t end) { swiglu_forward_rows(y, gate_up, begin, end); });
  }

  void do_swiglu_backward(Tensor dgate_up, Tensor dy, Tensor gate_up, Stream&) override {
    for_each_row(gate_up, [&](int64_t begin, int64_t end) { swiglu_backward_rows(dgate_up, dy, gate_up, begin, end); });
  }

  void do_rotary(Tensor x, Tensor table, Turn turn, Stream&) override {
    for_each_row(x, [&](int64_t begin, int64_t end) { rotary_rows(x, table, turn, begin, end); });
  }

  void do_ordered_sum(Tensor out, Tensor pieces, Stream&) override {
    for_each_range(out.elements(), [&](int64_t begin, int64_t end) { ordered_sum_range(out, pieces, begin, end); });
  }

  void do_embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream&) override {
    for_each_row(h, [&](int64_t begin, int64_t end) { embedding_forward_rows(h, tokens, token_weight, position_weight, T, begin, end); });
  }

  void do_token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens, Tensor order, GradientWrite write, RandomStream rounding,
                                   Stream& stream) override {
    if (write == GradientWrite::Overwrite) do_zero(dtoken, stream);  // a batch has few of the tokens
    const int32_t *token_of = tokens.as<int32_t>(), *rows = order.as<int32_t>();
    const int64_t N = dh.rows();
    // A cut moves to the end of its token, which then belongs to the thread before.
    const auto whole_tokens = [=](int64_t cut) {
      while (cut > 0 && cut < N && token_of[rows[cut]] == token_of[rows[cut - 1]]) cut++;
      return cut;
    };
    for_each_row(dh, [&](int64_t begin, int64_t end) {
      token_embedding_backward_range(dtoken, dh, tokens, order, write, rounding, whole_tokens(begin), whole_tokens(end));
    });
  }

  void do_position_embedding_backward(Tensor dposition, Tensor dh, int64_t T, GradientWrite write, RandomStream rounding,
                                      Stream& stream) override {
    const int64_t summed = dh.rows() == 0 ? 0 : T;
    if (write == GradientWrite::Overwrite) do_zero(dposition.row_range(summed, dposition.rows()), stream);
    if (summed == 0) return;
    for_each_range(T * dh.columns(),
                   [&](int64_t begin, int64_t end) { position_embedding_backward_range(dposition, dh, T, write, rounding, begin, end); });
  }

  template <class Body>
  void for_each_range(int64_t n, const Body& body) const {
    parallel_ranges(n, line_elements, 1, threads_, body);
  }
  template <class Body>
  void for_each_row(const Tensor& matrix, const Body& body) const {
    parallel_ranges(matrix.rows(), 1, matrix.columns(), threads_, body);
  }

  static constexpr int64_t line_bytes = 64, line_elements = 32;  // a cache line of the smallest type, whole ones of the others
  int threads_;
};

}  // namespace

std::unique_ptr<ElementwiseOps> make_cpu_elementwise_ops(int threads) { return std::make_unique<CpuElementwiseOps>(threads); }

}  // namespace tessera
#endif
