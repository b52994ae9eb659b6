#include "kernels/norm_ops.h"

#include "base/error.h"
#include "tests/norm_runs.h"

namespace tessera::op_test {
namespace {

// One element, odd sizes, a real width.
const std::vector<NormSize> sizes = {{1, 1}, {3, 2}, {3, 64}, {7, 1023}, {2, 4097}, {emulated_or(37, 129), 768}};

class Norms : public testing::TestWithParam<NormCase> {
 protected:
  const NormCase c = GetParam();
};

TEST_P(Norms, ForwardAndBackwardAreAsExactAsPlainCode) {
  TestDevice device = TestDevice::under_test();
  for (const NormSize s : sizes) expect_norms_as_exact_as_plain_code(device, c, s);
}

TEST_P(Norms, TheResidualIsReadAsItIsStoredWhetherTheAddIsFusedOrNot) {
  TestDevice device = TestDevice::under_test();
  for (const NormSize s : sizes) {
    const NormInputs in(c.dtype, s);
    const NormResults fused = run_norm(device, c, make_norm_tensors(device, c, s, in));
    NormTensors t = make_norm_tensors(device, c, s, in);
    t.h = t.residual = device.tensor({s.N, s.H}, in.h, c.dtype);
    t.delta = {};
    EXPECT_TRUE(run_norm(device, c, t) == fused) << s.N << " x " << s.H;
  }
}

TEST_P(Norms, ResultsIn16BitsAreThoseInFp32EachRoundedOnce) {
  TestDevice device = TestDevice::under_test();
  for (const NormSize s : sizes) expect_norms_rounded_once(device, c, s);
}

TEST_P(Norms, Bf16GradientsAreTheFp32OnesEachRoundedOnceByItsOwnHalfWord) {
  const RandomStream rounding(7, RandomPurpose::Rounding, "norm", 3);
  TestDevice device = TestDevice::under_test();
  for (const NormSize s : sizes) {
    const NormInputs in(c.dtype, s);
    for (const GradientWrite write : gradient_writes) {
      const NormResults wide = run_norm(device, c, make_norm_tensors(device, c, s, in, {DType::f32, write}, 0.5f));
      NormResults expected = wide;
      for (size_t i = 0; i < expected.dweight.size(); i++) {
        expected.dweight[i] = rounded_stochastically(wide.dweight[i], rounding.half_word(i));
        if (!wide.dbias.empty()) expected.dbias[i] = rounded_stochastically(wide.dbias[i], rounding.half_word(s.H + i));
      }
      const NormResults ours = run_norm(device, c, make_norm_tensors(device, c, s, in, {DType::bf16, write}, 0.5f), rounding);
      EXPECT_EQ(ours.dweight, expected.dweight);
      EXPECT_EQ(ours.dbias, expected.dbias);
    }
  }
}

TEST_P(Norms, BitsDependNeitherOnThreadsNorOnTheRun) {
  const NormSize s{emulated_or(71, 301), 777};
  const NormInputs in(c.dtype, s);
  const RandomStream rounding(7, RandomPurpose::Rounding, "norm", 3);
  for (const DType gradient : {DType::f32, DType::bf16}) {
    TestDevice one = TestDevice::under_test(1);
    const auto results = [&](TestDevice& device) { return run_norm(device, c, make_norm_tensors(device, c, s, in, {gradient}), rounding); };
    const NormResults expected = results(one);
    EXPECT_TRUE(results(one) == expected);
    for (const int threads : {2, 3}) {
      TestDevice several = TestDevice::under_test(threads);
      EXPECT_TRUE(results(several) == expected) << threads << " threads";
    }
  }
}

TEST_P(Norms, TheInputGradientMayStandWhereTheResidualsStood) {
  const NormSize s{5, 67};
  TestDevice device = TestDevice::under_test();
  NormTensors t = make_norm_tensors(device, c, s, NormInputs(c.dtype, s));
  const NormResults expected = run_norm(device, c, t);
  t.dx = t.dh;
  norm_backward_input(device, c, t);
  EXPECT_EQ(device.values(t.dh), expected.dx);
}

TEST_P(Norms, RowsMayLieApart) {
  const NormSize s{5, 67};
  const NormInputs in(c.dtype, s);
  TestDevice device = TestDevice::under_test();
  NormTensors t = make_norm_tensors(device, c, s, in);
  const NormResults expected = run_norm(device, c, t);
  const Tensor wide = device.tensor({s.N, 6 * s.H + 3}, c.dtype);
  const auto columns = [&](int64_t k, const std::vector<float>& values) {
    return device.columns(wide, k * s.H + 3, (k + 1) * s.H + 3, values);
  };
  t.h = t.residual = columns(0, in.residual), t.delta = columns(1, in.delta), t.n = columns(2, in.dh);
  t.dn = columns(3, in.dn), t.dh = columns(4, in.dh), t.dx = columns(5, in.dh);
  t.dweight = device.tensor({s.H});
  if (!t.dbias.empty()) t.dbias = device.tensor({s.H});
  EXPECT_TRUE(run_norm(device, c, t) == expected);
  EXPECT_EQ(device.values(wide.column_range(0, 3)), std::vector<float>(3 * s.N)) << "nothing is written beside the rows";
}

TEST_P(Norms, TheNullDeviceRecordsTheSameOps) {
  const NormSize s{4, 32};
  expect_same_trace_on_null(6, [&](TestDevice& device) {
    NormTensors t = make_norm_tensors(device, c, s, NormInputs(c.dtype, s));
    run_norm(device, c, t);
    t.delta = {}, t.residual = t.h, t.dweight = device.tensor({s.H}, DType::bf16);
    if (!t.dbias.empty()) t.dbias = device.tensor({s.H}, DType::bf16);
    norm_forward(device, c, t);
    norm_backward_weight(device, c, t);
    t.write = GradientWrite::Overwrite;
    norm_backward_weight(device, c, t);
  });
}

TEST_P(Norms, EachOpCountsItsOperandsOnce) {
  TestDevice device = TestDevice::null();
  Trace trace;
  device.stream().set_trace(&trace);
  const NormSize s{4, 32};
  NormTensors t = make_norm_tensors(device, c, s, NormInputs(c.dtype, s), {DType::bf16});
  run_norm(device, c, t);
  t.delta = {}, t.residual = t.h;
  norm_forward(device, c, t);
  t.write = GradientWrite::Overwrite;
  norm_backward_weight(device, c, t);
  const int64_t vectors = c.kind == NormKind::RmsNorm ? 1 : 2;  // weight and rstd; for layer norm bias and mean too
  const int64_t matrix = t.h.bytes(), row = t.weight.bytes(), statistics = vectors * 4 * 4, gradients = vectors * 32 * 2;
  const bool rms = c.kind == NormKind::RmsNorm;
  ASSERT_EQ(trace.size(), 5u);
  EXPECT_EQ(trace[0].info.kind, rms ? OpKind::RmsNormForward : OpKind::LayerNormForward);
  EXPECT_EQ(trace[0].info.read_bytes, 2 * matrix + vectors * row);
  EXPECT_EQ(trace[0].info.write_bytes, 2 * matrix + statistics);
  EXPECT_EQ(trace[1].info.kind, rms ? OpKind::RmsNormBackwardInput : OpKind::LayerNormBackwardInput);
  EXPECT_EQ(trace[1].info.read_bytes, 3 * matrix + row + statistics);
  EXPECT_EQ(trace[1].info.write_bytes, matrix);
  EXPECT_EQ(trace[2].info.kind, rms ? OpKind::RmsNormBackwardWeight : OpKind::LayerNormBackwardWeight);
  EXPECT_EQ(trace[2].info.read_bytes, 2 * matrix + gradients + statistics);
  EXPECT_EQ(trace[2].info.write_bytes, gradients);
  EXPECT_EQ(trace[3].info.read_bytes, matrix + vectors * row) << "nothing is added";
  EXPECT_EQ(trace[3].info.write_bytes, matrix + statistics);
  EXPECT_EQ(trace[4].info.read_bytes, 2 * matrix + statistics) << "what is overwritten is not read";
  EXPECT_EQ(trace[4].info.write_bytes, gradients);
}

TEST_P(Norms, WrongShapesAndTypesAreInternalErrors) {
  TestDevice device = TestDevice::null();
  const NormSize s{4, 32};
  const NormTensors right = make_norm_tensors(device, c, s, NormInputs(c.dtype, s));
  const Tensor narrow = device.tensor({4, 31}, c.dtype), integers = device.tensor({4, 32}, DType::i32);
  const DType other = c.dtype == DType::f32 ? DType::bf16 : DType::f32;
  const auto expect_refused = [&](auto op, auto change) {
    NormTensors t = right;
    op(device, c, t, {});
    change(t);
    EXPECT_THROW(op(device, c, t, {}), InternalError);
  };
  const auto f = [](auto& d, NormCase k, const NormTensors& t, RandomStream) { norm_forward(d, k, t); };
  const auto b = [](auto& d, NormCase k, const NormTensors& t, RandomStream) { norm_backward_input(d, k, t); };
  expect_refused(f, [&](NormTensors& t) { t.n = narrow; });
  expect_refused(f, [&](NormTensors& t) { t.delta = narrow; });
  expect_refused(f, [&](NormTensors& t) { t.rstd = t.weight; });
  expect_refused(f, [&](NormTensors& t) { t.weight = {}; });
  expect_refused(f, [&](NormTensors& t) { t.weight = device.tensor({32}, other); });
  expect_refused(f, [&](NormTensors& t) { t.delta = {}; });  // h is not the residual
  expect_refused(f,
                 [&](NormTensors& t) { t.h = t.n = t.residual = t.delta = integers, t.weight = t.bias = device.tensor({32}, DType::i32); });
  expect_refused(b, [&](NormTensors& t) { t.dh = {}; });
  expect_refused(b, [&](NormTensors& t) { t.dn = narrow; });
  expect_refused(b, [&](NormTensors& t) { t.dx = device.tensor({4, 32}, other); });
  expect_refused(norm_backward_weight, [&](NormTensors& t) { t.dweight = t.rstd; });
  expect_refused(norm_backward_weight, [&](NormTensors& t) { t.dweight = device.tensor({32}, DType::f16); });
  expect_refused(norm_backward_weight, [&](NormTensors& t) { t.dn = device.tensor({4, 32}, other); });
}

std::string name_of_case(const testing::TestParamInfo<NormCase>& test) { return test.param.name(); }

INSTANTIATE_TEST_SUITE_P(EachType, Norms, testing::ValuesIn(norm_cases()), name_of_case);

TEST(LayerNorm, WeightGradientsOfRowsTooLongForOneRoundOfSumsAreExactToo) {
  TestDevice device = TestDevice::under_test();
  expect_norms_as_exact_as_plain_code(device, {NormKind::LayerNorm, DType::f32}, {66, emulated_or(5000, 50000)});
}

TEST(LayerNorm, ALargeMeanCostsNoDigitsOfTheVariance) {
  const NormCase c{NormKind::LayerNorm, DType::f32};
  const NormSize s{4, 768};
  NormInputs in(c.dtype, s, 4096);
  in.delta.assign(in.delta.size(), 0);
  TestDevice device = TestDevice::under_test();
  // What the residual's rounding leaves of its values is given; the statistics of these must be right to fp32.
  const auto exact = plain_norm_forward<double>(c.kind, in.residual, in);
  EXPECT_LE(max_error(run_norm(device, c, make_norm_tensors(device, c, s, in)).rstd, exact.rstd), 1e-6);
}

TEST(NormReference, BackwardIsTheCentralDifference) {
  const NormSize s{3, 5};
  const NormInputs in(DType::f32, s);
  const auto delta = converted<double>(in.delta), dn = converted<double>(in.dn), dh = converted<double>(in.dh);
  for (const NormKind kind : {NormKind::LayerNorm, NormKind::RmsNorm}) {
    auto residual = converted<double>(in.residual), weight = converted<double>(in.weight), bias = converted<double>(in.bias);
    const auto out = [&] {
      return kind == NormKind::RmsNorm ? reference::rms_norm_forward<double>(residual, delta, weight, norm_epsilon)
                                       : reference::layer_norm_forward<double>(residual, delta, weight, bias, norm_epsilon);
    };
    const auto loss = [&] { return dot(out().n, dn) + dot(out().h, dh); };
    const auto gradients = plain_norm_backward<double>(kind, out(), in.weight, in.dh, in.dn, 0);
    EXPECT_LE(max_error(gradients.dx, central_differences(residual, loss)), 1e-7);
    EXPECT_LE(max_error(gradients.dweight, central_differences(weight, loss)), 1e-7);
    if (kind == NormKind::LayerNorm) {
      EXPECT_LE(max_error(gradients.dbias, central_differences(bias, loss)), 1e-7);
    }
  }
}

}  // namespace
}  // namespace tessera::op_test
