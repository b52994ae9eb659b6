// The norm family on the CPU: how rows and columns are cut between threads.
#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/norm_loops.h"
#include "kernels/cpu/parallel_ranges.h"
#include "kernels/cpu/workspace.h"

namespace tessera {
namespace {

class CpuNormOps : public NormOps {
 public:
  CpuNormOps(int threads, const Tensor& workspace) : threads_(threads), workspace_(workspace) {}

 private:
  void do_layer_norm_forward(Tensor h, Tensor n, Tensor mean, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, Tensor bias,
                             float epsilon, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_, [&](int64_t begin, int64_t end) {
      layer_norm_forward_rows(h, n, mean, rstd, residual, delta, weight, bias, epsilon, begin, end);
    });
  }

  void do_layer_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor mean, Tensor rstd, Tensor weight, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_,
                    [&](int64_t begin, int64_t end) { layer_norm_backward_input_rows(dx, dh, dn, h, mean, rstd, weight, begin, end); });
  }

  void do_layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, GradientWrite write,
                                     RandomStream rounding, Stream&) override {
    backward_weight(dweight, dbias, dn, h, mean, rstd, write, rounding);
  }

  void do_rms_norm_forward(Tensor h, Tensor n, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, float epsilon, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_,
                    [&](int64_t begin, int64_t end) { rms_norm_forward_rows(h, n, rstd, residual, delta, weight, epsilon, begin, end); });
  }

  void do_rms_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor rstd, Tensor weight, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_,
                    [&](int64_t begin, int64_t end) { rms_norm_backward_input_rows(dx, dh, dn, h, rstd, weight, begin, end); });
  }

  void do_rms_norm_backward_weight(Tensor dweight, Tensor dn, Tensor h, Tensor rstd, GradientWrite write, RandomStream rounding,
                                   Stream&) override {
    backward_weight(dweight, {}, dn, h, {}, rstd, write, rounding);
  }

  /// Threads take whole rows, whose lines follow each other in memory; a round is as many chunks as the workspace holds sums of.
  void backward_weight(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                       const Tensor& rstd, GradientWrite write, const RandomStream& rounding) const {
    const int64_t H = h.columns(), chunks = (h.rows() + norm_chunk_rows - 1) / norm_chunk_rows;
    const std::span<float> memory = workspace_.part(0, 1);  // totals [2, H] and sums [round, 2, H]
    const int64_t round = std::max(near_floats, 4 * H) / (2 * H) - 1;
    invariant(2 * H * (round + 1) <= static_cast<int64_t>(memory.size()), "a row is longer than the workspace holds");
    float *totals = memory.data(), *sums = totals + 2 * H;
    std::fill_n(totals, 2 * H, 0.0f);
    for (int64_t first = 0; first < chunks; first += round) {
      const int64_t count = std::min(round, chunks - first);
      parallel_ranges(count, 1, norm_chunk_rows * H, threads_, [&](int64_t begin, int64_t end) {
        norm_chunk_sums(sums + begin * 2 * H, dn, h, mean, rstd, first + begin, first + end);
      });
      for_columns(H, 2 * count, [&](int64_t begin, int64_t end) { norm_add_sums(totals, sums, count, H, begin, end); });
    }
    for_columns(H, 2, [&](int64_t begin, int64_t end) { norm_write_gradients(dweight, dbias, totals, write, rounding, begin, end); });
  }

  template <class Body>
  void for_columns(int64_t H, int64_t rows, const Body& body) const {
    parallel_ranges(H, floats_of_a_line, rows, threads_, body);
  }

  static constexpr int64_t near_floats = int64_t{256} << 10;  // of the workspace: what stays in a cache
  int threads_;
  Workspace workspace_;
};

}  // namespace

std::unique_ptr<NormOps> make_cpu_norm_ops(int threads, const Tensor& workspace) {
  return std::make_unique<CpuNormOps>(threads, workspace);
}

}  // namespace tessera
