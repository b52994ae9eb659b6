// The elementwise family on the CPU: how its ops are cut between threads, and the simplest of its loops.
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera {
namespace HWY_NAMESPACE {

void add_loop(float* out, const float* a, const float* b, int64_t n) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i); });
}

void sum_loop(float* out, const float* pieces, int64_t stride, int64_t count, int64_t n, bool accumulate) {
  for_each_vector(n, [=](auto d, int64_t i) HWY_ATTR {
    auto sum = hn::LoadU(d, pieces + i);
    for (int64_t k = 1; k < count; k++) sum = hn::Add(sum, hn::LoadU(d, pieces + k * stride + i));
    if (accumulate) sum = hn::Add(hn::LoadU(d, out + i), sum);
    hn::StoreU(sum, d, out + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace tessera
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera {
HWY_EXPORT(add_loop);
HWY_EXPORT(sum_loop);

void add_range(float* out, const float* a, const float* b, int64_t n) { HWY_DYNAMIC_DISPATCH(add_loop)(out, a, b, n); }
void sum_range(float* out, const float* pieces, int64_t stride, int64_t count, int64_t n, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(sum_loop)(out, pieces, stride, count, n, accumulate);
}

namespace {

class CpuElementwiseOps : public ElementwiseOps {
 public:
  explicit CpuElementwiseOps(int threads) : threads_(threads) {}

 private:
  void do_zero(Tensor t, Stream&) override {
    char* to = static_cast<char*>(t.data);
    parallel_ranges(t.bytes(), line_bytes, 1, threads_,
                    [=](int64_t begin, int64_t end) { std::memset(to + begin, 0, static_cast<size_t>(end - begin)); });
  }

  void do_copy(Tensor to_tensor, Tensor from_tensor, Stream&) override {
    char* to = static_cast<char*>(to_tensor.data);
    const char* from = static_cast<const char*>(from_tensor.data);
    if (to == from) return;
    parallel_ranges(to_tensor.bytes(), line_bytes, 1, threads_,
                    [=](int64_t begin, int64_t end) { std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin)); });
  }

  void do_add(Tensor out_tensor, Tensor a_tensor, Tensor b_tensor, Stream&) override {
    float *out = out_tensor.as<float>(), *a = a_tensor.as<float>(), *b = b_tensor.as<float>();
    for_each_range(out_tensor.elements(), [=](int64_t begin, int64_t end) { add_range(out + begin, a + begin, b + begin, end - begin); });
  }

  void do_gelu_forward(Tensor y_tensor, Tensor x_tensor, Stream&) override {
    float *y = y_tensor.as<float>(), *x = x_tensor.as<float>();
    for_each_range(x_tensor.elements(), [=](int64_t begin, int64_t end) { gelu_forward_range(y + begin, x + begin, end - begin); });
  }

  void do_gelu_backward(Tensor dx_tensor, Tensor dy_tensor, Tensor x_tensor, Stream&) override {
    float *dx = dx_tensor.as<float>(), *dy = dy_tensor.as<float>(), *x = x_tensor.as<float>();
    for_each_range(x_tensor.elements(),
                   [=](int64_t begin, int64_t end) { gelu_backward_range(dx + begin, dy + begin, x + begin, end - begin); });
  }

  void do_ordered_sum(Tensor out_tensor, Tensor pieces_tensor, Stream&) override {
    float *out = out_tensor.as<float>(), *pieces = pieces_tensor.as<float>();
    const int64_t R = pieces_tensor.shape[0], n = pieces_tensor.shape[1];
    for_each_range(n, [=](int64_t begin, int64_t end) { sum_range(out + begin, pieces + begin, n, R, end - begin, false); });
  }

  void do_embedding_forward(Tensor h, Tensor tokens, Tensor token_weight, Tensor position_weight, int64_t T, Stream&) override {
    const int64_t H = h.columns();
    parallel_ranges(h.rows(), 1, H, threads_, [&](int64_t begin, int64_t end) {
      embedding_forward_rows(h.as<float>(), tokens.as<int32_t>(), token_weight.as<float>(), position_weight.as<float>(), T, H, begin, end);
    });
  }

  void do_token_embedding_backward(Tensor dtoken, Tensor dh, Tensor tokens_tensor, Tensor order_tensor, Stream&) override {
    const int32_t *tokens = tokens_tensor.as<int32_t>(), *order = order_tensor.as<int32_t>();
    const int64_t N = dh.rows(), H = dh.columns();
    // A cut moves to the end of its token, which then belongs to the thread before.
    const auto whole_tokens = [=](int64_t cut) {
      while (cut > 0 && cut < N && tokens[order[cut]] == tokens[order[cut - 1]]) cut++;
      return cut;
    };
    parallel_ranges(N, 1, H, threads_, [&](int64_t begin, int64_t end) {
      token_embedding_backward_range(dtoken.as<float>(), dh.as<float>(), tokens, order, H, whole_tokens(begin), whole_tokens(end));
    });
  }

  /// Sequences are pieces that lie T rows apart.
  void do_position_embedding_backward(Tensor dposition, Tensor dh_tensor, int64_t T, Stream&) override {
    float *to = dposition.as<float>(), *dh = dh_tensor.as<float>();
    const int64_t n = T * dh_tensor.columns(), sequences = dh_tensor.rows() / T;
    if (sequences == 0) return;
    for_each_range(n, [=](int64_t begin, int64_t end) { sum_range(to + begin, dh + begin, n, sequences, end - begin, true); });
  }

  template <class Body>
  void for_each_range(int64_t n, const Body& body) const {
    parallel_ranges(n, floats_of_a_line, 1, threads_, body);
  }

  static constexpr int64_t line_bytes = 64;
  int threads_;
};

}  // namespace

std::unique_ptr<ElementwiseOps> make_cpu_elementwise_ops(int threads) { return std::make_unique<CpuElementwiseOps>(threads); }

}  // namespace tessera
#endif
