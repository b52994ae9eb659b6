// The norm family on the CPU: rows of forward and input gradient, columns of weight gradients are cut between threads.
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/norm_loops.h"
#include "kernels/cpu/parallel_ranges.h"

namespace tessera {
namespace {

class CpuNormOps : public NormOps {
 public:
  explicit CpuNormOps(int threads) : threads_(threads) {}

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

  void do_layer_norm_backward_weight(Tensor dweight, Tensor dbias, Tensor dn, Tensor h, Tensor mean, Tensor rstd, RandomStream rounding,
                                     Stream&) override {
    backward_weight(dweight, dbias, dn, h, mean, rstd, rounding);
  }

  void do_rms_norm_forward(Tensor h, Tensor n, Tensor rstd, Tensor residual, Tensor delta, Tensor weight, float epsilon, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_,
                    [&](int64_t begin, int64_t end) { rms_norm_forward_rows(h, n, rstd, residual, delta, weight, epsilon, begin, end); });
  }

  void do_rms_norm_backward_input(Tensor dx, Tensor dh, Tensor dn, Tensor h, Tensor rstd, Tensor weight, Stream&) override {
    parallel_ranges(h.rows(), 1, h.columns(), threads_,
                    [&](int64_t begin, int64_t end) { rms_norm_backward_input_rows(dx, dh, dn, h, rstd, weight, begin, end); });
  }

  void do_rms_norm_backward_weight(Tensor dweight, Tensor dn, Tensor h, Tensor rstd, RandomStream rounding, Stream&) override {
    backward_weight(dweight, {}, dn, h, {}, rstd, rounding);
  }

  void backward_weight(const Tensor& dweight, const Tensor& dbias, const Tensor& dn, const Tensor& h, const Tensor& mean,
                       const Tensor& rstd, const RandomStream& rounding) const {
    parallel_ranges(h.columns(), floats_of_a_line, h.rows(), threads_, [&](int64_t begin, int64_t end) {
      norm_backward_weight_columns(dweight, dbias, dn, h, mean, rstd, rounding, begin, end);
    });
  }

  int threads_;
};

}  // namespace

std::unique_ptr<NormOps> make_cpu_norm_ops(int threads) { return std::make_unique<CpuNormOps>(threads); }

}  // namespace tessera
