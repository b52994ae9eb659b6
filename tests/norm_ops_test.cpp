#include "kernels/norm_ops.h"

#include "base/error.h"
#include "tests/op_test.h"
#include "tests/reference_elementwise.h"

namespace tessera {
namespace {

using namespace op_test;

constexpr float epsilon = 1e-5f;

struct Size {
  int64_t N, H;
};
const std::vector<Size> sizes = {{1, 1}, {3, 2}, {3, 64}, {7, 1023}, {2, 4097}, {129, 768}};  // one element, odd sizes, a real width

/// Inputs of all three ops. The hidden values have a mean, so that a variance by difference of squares would be seen.
struct Inputs {
  explicit Inputs(Size s, float offset = 3)
      : residual(random_values(s.N * s.H, "residual")),
        delta(random_values(s.N * s.H, "delta")),
        weight(random_values(s.H, "weight")),
        bias(random_values(s.H, "bias")),
        dn(random_values(s.N * s.H, "dn")),
        dh(random_values(s.N * s.H, "dh")) {
    for (float& value : residual) value += offset;
  }
  template <class Scalar>
  reference::LayerNorm<Scalar> forward(bool adds = true) const {
    return reference::layer_norm_forward<Scalar>(converted<Scalar>(residual), converted<Scalar>(adds ? delta : std::vector<float>{}),
                                                 converted<Scalar>(weight), converted<Scalar>(bias), epsilon);
  }
  std::vector<float> residual, delta, weight, bias, dn, dh;
};

struct Results {
  std::vector<float> h, n, mean, rstd, dx, dweight, dbias;
  bool operator==(const Results&) const = default;
};

/// All three ops in a row; `before` is in dweight and dbias at the start.
Results run(TestDevice& device, Size s, const Inputs& in, bool adds = true, float before = 0) {
  const Tensor residual = device.tensor({s.N, s.H}, in.residual), weight = device.tensor({s.H}, in.weight);
  const Tensor h = adds ? device.tensor({s.N, s.H}) : residual, n = device.tensor({s.N, s.H});
  const Tensor mean = device.tensor({s.N}), rstd = device.tensor({s.N});
  device->norm().layer_norm_forward(h, n, mean, rstd, residual, adds ? device.tensor({s.N, s.H}, in.delta) : Tensor(), weight,
                                    device.tensor({s.H}, in.bias), epsilon, device.stream());
  const Tensor dx = device.tensor({s.N, s.H}), dn = device.tensor({s.N, s.H}, in.dn), dh = device.tensor({s.N, s.H}, in.dh);
  device->norm().layer_norm_backward_input(dx, dh, dn, h, mean, rstd, weight, device.stream());
  const std::vector<float> start(s.H, before);
  const Tensor dweight = device.tensor({s.H}, start), dbias = device.tensor({s.H}, start);
  device->norm().layer_norm_backward_weight(dweight, dbias, dn, h, mean, rstd, device.stream());
  return {device.values(h),  device.values(n),       device.values(mean), device.values(rstd),
          device.values(dx), device.values(dweight), device.values(dbias)};
}

TEST(LayerNorm, ForwardIsAsExactAsPlainCode) {
  TestDevice device = TestDevice::cpu();
  for (const Size s : sizes) {
    for (const bool adds : {true, false}) {
      SCOPED_TRACE(testing::Message() << s.N << " x " << s.H << (adds ? " with delta" : " without delta"));
      const Inputs in(s);
      const auto exact = in.forward<double>(adds);
      const auto plain = in.forward<float>(adds);
      const Results ours = run(device, s, in, adds);
      EXPECT_EQ(ours.h, plain.h);
      expect_as_exact_as_plain_code("n", ours.n, plain.n, exact.n);
      expect_as_exact_as_plain_code("mean", ours.mean, plain.mean, exact.mean);
      expect_as_exact_as_plain_code("rstd", ours.rstd, plain.rstd, exact.rstd);
    }
  }
}

TEST(LayerNorm, ALargeMeanCostsNoDigitsOfTheVariance) {
  const Size s{4, 768};
  Inputs in(s, 4096);
  in.delta.assign(in.delta.size(), 0);
  TestDevice device = TestDevice::cpu();
  // What the residual's rounding leaves of its values is given; the statistics of these must be right to fp32.
  EXPECT_LE(max_error(run(device, s, in).rstd, in.forward<double>().rstd), 1e-6);
}

TEST(LayerNorm, BackwardIsAsExactAsPlainCode) {
  TestDevice device = TestDevice::cpu();
  for (const Size s : sizes) {
    SCOPED_TRACE(testing::Message() << s.N << " x " << s.H);
    const Inputs in(s);
    const Results ours = run(device, s, in, true, 0.5f);
    // The backward is judged on what the forward handed it.
    const reference::LayerNorm<float> saved{ours.h, ours.n, ours.mean, ours.rstd};
    const reference::LayerNorm<double> exactly{converted<double>(ours.h), converted<double>(ours.n), converted<double>(ours.mean),
                                               converted<double>(ours.rstd)};
    expect_as_exact_as_plain_code(
        "dx", ours.dx, reference::layer_norm_backward_input(in.dh, in.dn, saved, in.weight),
        reference::layer_norm_backward_input(converted<double>(in.dh), converted<double>(in.dn), exactly, converted<double>(in.weight)));
    std::vector<float> dweight(s.H, 0.5f), dbias(s.H, 0.5f);
    std::vector<double> exact_dweight(s.H, 0.5), exact_dbias(s.H, 0.5);
    reference::layer_norm_backward_weight(dweight, dbias, in.dn, saved);
    reference::layer_norm_backward_weight(exact_dweight, exact_dbias, converted<double>(in.dn), exactly);
    expect_as_exact_as_plain_code("dweight", ours.dweight, dweight, exact_dweight);
    expect_as_exact_as_plain_code("dbias", ours.dbias, dbias, exact_dbias);
  }
}

TEST(LayerNorm, ThePlainBackwardAgreesWithFiniteDifferences) {
  const Size s{3, 5};
  const Inputs in(s);
  std::vector<double> residual = converted<double>(in.residual), weight = converted<double>(in.weight), bias = converted<double>(in.bias);
  const std::vector<double> delta = converted<double>(in.delta), dn = converted<double>(in.dn), dh = converted<double>(in.dh);
  const auto loss = [&] {
    const auto out = reference::layer_norm_forward<double>(residual, delta, weight, bias, epsilon);
    return dot(out.n, dn) + dot(out.h, dh);
  };
  const auto forward = in.forward<double>();
  std::vector<double> dweight(s.H), dbias(s.H);
  reference::layer_norm_backward_weight(dweight, dbias, dn, forward);
  EXPECT_LE(max_error(reference::layer_norm_backward_input(dh, dn, forward, weight), central_differences(residual, loss)), 1e-7);
  EXPECT_LE(max_error(dweight, central_differences(weight, loss)), 1e-7);
  EXPECT_LE(max_error(dbias, central_differences(bias, loss)), 1e-7);
}

TEST(LayerNorm, BitsDependNeitherOnThreadsNorOnTheRun) {
  const Size s{301, 777};
  const Inputs in(s);
  TestDevice one = TestDevice::cpu(1), two = TestDevice::cpu(2), three = TestDevice::cpu(3);
  const Results expected = run(one, s, in);
  EXPECT_TRUE(run(one, s, in) == expected);
  EXPECT_TRUE(run(two, s, in) == expected);
  EXPECT_TRUE(run(three, s, in) == expected);
}

TEST(LayerNorm, TheInputGradientMayStandWhereTheResidualsStood) {
  const Size s{5, 67};
  const Inputs in(s);
  TestDevice device = TestDevice::cpu();
  const Results expected = run(device, s, in);
  const Tensor dh = device.tensor({s.N, s.H}, in.dh);
  device->norm().layer_norm_backward_input(dh, dh, device.tensor({s.N, s.H}, in.dn), device.tensor({s.N, s.H}, expected.h),
                                           device.tensor({s.N}, expected.mean), device.tensor({s.N}, expected.rstd),
                                           device.tensor({s.H}, in.weight), device.stream());
  EXPECT_EQ(device.values(dh), expected.dx);
}

TEST(LayerNorm, RowsMayLieApart) {
  const Size s{5, 67};
  const Inputs in(s);
  TestDevice device = TestDevice::cpu();
  const Results expected = run(device, s, in);
  const Tensor wide = device.tensor({s.N, 4 * s.H + 3});
  const Tensor residual = device.columns(wide, 1, 1 + s.H, in.residual), n = wide.column_range(s.H + 2, 2 * s.H + 2);
  const Tensor dn = device.columns(wide, 3 * s.H + 3, 4 * s.H + 3, in.dn);
  const Tensor mean = device.tensor({s.N}), rstd = device.tensor({s.N}), weight = device.tensor({s.H}, in.weight);
  device->norm().layer_norm_forward(residual, n, mean, rstd, residual, device.tensor({s.N, s.H}, in.delta), weight,
                                    device.tensor({s.H}, in.bias), epsilon, device.stream());
  EXPECT_EQ(device.values(residual), expected.h);
  EXPECT_EQ(device.values(n), expected.n);
  const Tensor dweight = device.tensor({s.H}), dbias = device.tensor({s.H});
  device->norm().layer_norm_backward_weight(dweight, dbias, dn, residual, mean, rstd, device.stream());
  EXPECT_EQ(device.values(dweight), expected.dweight);
  EXPECT_EQ(device.values(dbias), expected.dbias);
  device->norm().layer_norm_backward_input(dn, device.tensor({s.N, s.H}, in.dh), dn, residual, mean, rstd, weight, device.stream());
  EXPECT_EQ(device.values(dn), expected.dx);
}

TEST(LayerNorm, TheNullDeviceRecordsTheSameOps) {
  for (const bool adds : {true, false}) {
    expect_same_trace_on_null(3, [&](TestDevice& device) { run(device, {4, 32}, Inputs({4, 32}), adds); });
  }
}

TEST(LayerNorm, EachOpCountsItsOperandsOnce) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  const Size s{4, 32};
  run(device, s, Inputs(s));
  const int64_t matrix = 4 * 32 * 4, row = 32 * 4, statistics = 2 * 4 * 4;
  ASSERT_EQ(trace.size(), 3u);
  EXPECT_EQ(trace[0].info.read_bytes, 2 * matrix + 2 * row);
  EXPECT_EQ(trace[0].info.write_bytes, 2 * matrix + statistics);
  EXPECT_EQ(trace[1].info.read_bytes, 3 * matrix + row + statistics);
  EXPECT_EQ(trace[1].info.write_bytes, matrix);
  EXPECT_EQ(trace[2].info.read_bytes, 2 * matrix + 2 * row + statistics);
  EXPECT_EQ(trace[2].info.write_bytes, 2 * row);
}

TEST(LayerNorm, WrongShapesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const Tensor x = device.tensor({4, 32}), other = device.tensor({4, 31}), rows = device.tensor({4}), row = device.tensor({32});
  NormOps& ops = device->norm();
  Stream& stream = device.stream();
  EXPECT_THROW(ops.layer_norm_forward(x, other, rows, rows, x, {}, row, row, epsilon, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_forward(x, x, row, rows, x, {}, row, row, epsilon, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_forward(x, x, rows, rows, x, other, row, row, epsilon, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_forward(x, x, rows, rows, x, {}, {}, row, epsilon, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_forward(device.tensor({4, 32}), x, rows, rows, x, {}, row, row, epsilon, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_backward_input(x, x, other, x, rows, rows, row, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_backward_input(x, {}, x, x, rows, rows, row, stream), InternalError);
  EXPECT_THROW(ops.layer_norm_backward_weight(rows, row, x, x, rows, rows, stream), InternalError);
}

}  // namespace
}  // namespace tessera
