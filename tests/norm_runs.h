#pragma once
#include "tests/op_test.h"
#include "tests/reference_elementwise.h"

/// Calls of both norms, on a device and as plain loops.
namespace tessera::op_test {

enum class NormKind { LayerNorm, RmsNorm };

struct NormCase {
  NormKind kind;
  DType dtype;
  std::string name() const { return (kind == NormKind::LayerNorm ? "layer_norm_" : "rms_norm_") + std::string(name_of(dtype)); }
  friend void PrintTo(const NormCase& norm, std::ostream* out) { *out << norm.name(); }
};

struct NormSize {
  int64_t N, H;
};
constexpr float norm_epsilon = 1e-5f;

/// Inputs of all three ops, as their type stores them. The hidden values have a mean, so that a variance by difference of squares would
/// be seen.
struct NormInputs {
  NormInputs(DType dtype, NormSize s, float offset = 3) {
    const auto random = [&](int64_t count, const char* name, float mean = 0) {
      std::vector<float> values = random_values(count, name);
      for (float& value : values) value += mean;
      return rounded_to(dtype, values);
    };
    residual = random(s.N * s.H, "residual", offset), delta = random(s.N * s.H, "delta");
    weight = random(s.H, "weight"), bias = random(s.H, "bias");
    dn = random(s.N * s.H, "dn"), dh = random(s.N * s.H, "dh");
    h = residual;
    for (size_t i = 0; i < h.size(); i++) h[i] += delta[i];
    h = rounded_to(dtype, h);
  }
  std::vector<float> residual, delta, weight, bias, dn, dh;
  std::vector<float> h;  // residual + delta
};

struct NormResults {
  std::vector<float> h, n, mean, rstd, dx, dweight, dbias;
  bool operator==(const NormResults&) const = default;
};

/// The tensors of one call of each op. RMS norm has neither bias nor mean nor dbias.
struct NormTensors {
  Tensor residual, delta, h, n, mean, rstd, weight, bias, dx, dh, dn, dweight, dbias;
  GradientWrite write = GradientWrite::Add;
};

inline NormTensors make_norm_tensors(TestDevice& device, NormCase c, NormSize s, const NormInputs& in, GradientCase gradient = {},
                                     float before = 0) {
  const auto matrix = [&](const std::vector<float>& values) { return device.tensor({s.N, s.H}, values, c.dtype); };
  const std::vector<float> start = old_gradient(gradient, std::vector<float>(s.H, before));
  NormTensors t;
  t.write = gradient.write;
  t.residual = matrix(in.residual), t.delta = matrix(in.delta), t.dh = matrix(in.dh), t.dn = matrix(in.dn);
  t.h = device.tensor({s.N, s.H}, c.dtype), t.n = device.tensor({s.N, s.H}, c.dtype), t.dx = device.tensor({s.N, s.H}, c.dtype);
  t.rstd = device.tensor({s.N}), t.weight = device.tensor({s.H}, in.weight, c.dtype),
  t.dweight = device.tensor({s.H}, start, gradient.dtype);
  if (c.kind == NormKind::RmsNorm) return t;
  t.mean = device.tensor({s.N}), t.bias = device.tensor({s.H}, in.bias, c.dtype), t.dbias = device.tensor({s.H}, start, gradient.dtype);
  return t;
}

inline void norm_forward(TestDevice& device, NormCase c, const NormTensors& t) {
  NormOps& ops = device->norm();
  if (c.kind == NormKind::RmsNorm)
    return ops.rms_norm_forward(t.h, t.n, t.rstd, t.residual, t.delta, t.weight, norm_epsilon, device.stream());
  ops.layer_norm_forward(t.h, t.n, t.mean, t.rstd, t.residual, t.delta, t.weight, t.bias, norm_epsilon, device.stream());
}

inline void norm_backward_input(TestDevice& device, NormCase c, const NormTensors& t) {
  NormOps& ops = device->norm();
  if (c.kind == NormKind::RmsNorm) return ops.rms_norm_backward_input(t.dx, t.dh, t.dn, t.h, t.rstd, t.weight, device.stream());
  ops.layer_norm_backward_input(t.dx, t.dh, t.dn, t.h, t.mean, t.rstd, t.weight, device.stream());
}

inline void norm_backward_weight(TestDevice& device, NormCase c, const NormTensors& t, RandomStream rounding = {}) {
  NormOps& ops = device->norm();
  if (c.kind == NormKind::RmsNorm) return ops.rms_norm_backward_weight(t.dweight, t.dn, t.h, t.rstd, t.write, rounding, device.stream());
  ops.layer_norm_backward_weight(t.dweight, t.dbias, t.dn, t.h, t.mean, t.rstd, t.write, rounding, device.stream());
}

inline NormResults run_norm(TestDevice& device, NormCase c, const NormTensors& t, RandomStream rounding = {}) {
  norm_forward(device, c, t);
  norm_backward_input(device, c, t);
  norm_backward_weight(device, c, t, rounding);
  const auto values = [&](const Tensor& tensor) { return tensor.empty() ? std::vector<float>{} : device.values(tensor); };
  return {values(t.h), values(t.n), values(t.mean), values(t.rstd), values(t.dx), values(t.dweight), values(t.dbias)};
}

/// The plain forward of stored hidden values.
template <class Scalar>
reference::Norm<Scalar> plain_norm_forward(NormKind kind, const std::vector<float>& h, const NormInputs& in) {
  const auto x = converted<Scalar>(h), weight = converted<Scalar>(in.weight);
  return kind == NormKind::RmsNorm ? reference::rms_norm_forward<Scalar>(x, {}, weight, norm_epsilon)
                                   : reference::layer_norm_forward<Scalar>(x, {}, weight, converted<Scalar>(in.bias), norm_epsilon);
}

template <class Scalar>
struct NormGradients {
  std::vector<Scalar> dx, dweight, dbias;
};

/// The plain backward; dweight and dbias are added to `before`.
template <class Scalar>
NormGradients<Scalar> plain_norm_backward(NormKind kind, const reference::Norm<Scalar>& saved, const std::vector<float>& weight,
                                          const std::vector<float>& dh, const std::vector<float>& dn, float before) {
  NormGradients<Scalar> out;
  const auto w = converted<Scalar>(weight), residual_gradient = converted<Scalar>(dh), gradient = converted<Scalar>(dn);
  out.dweight.assign(w.size(), before);
  if (kind == NormKind::RmsNorm) {
    out.dx = reference::rms_norm_backward_input(residual_gradient, gradient, saved, w);
    reference::rms_norm_backward_weight(out.dweight, gradient, saved);
  } else {
    out.dbias = out.dweight;
    out.dx = reference::layer_norm_backward_input(residual_gradient, gradient, saved, w);
    reference::layer_norm_backward_weight(out.dweight, out.dbias, gradient, saved);
  }
  return out;
}

/// One call of each op against the plain loops: the forward judged on its hidden values, the backward on what the forward handed it.
inline void expect_norms_as_exact_as_plain_code(TestDevice& device, NormCase c, NormSize s) {
  SCOPED_TRACE(testing::Message() << s.N << " x " << s.H);
  const NormInputs in(c.dtype, s);
  const float before = 0.5f;  // in dweight and dbias, which are added to
  const NormResults ours = run_norm(device, c, make_norm_tensors(device, c, s, in, {}, before));
  const auto plain = plain_norm_forward<float>(c.kind, in.h, in);
  const auto exact = plain_norm_forward<double>(c.kind, in.h, in);
  EXPECT_EQ(ours.h, in.h);
  expect_as_exact_as_plain_code("n", ours.n, plain.n, exact.n, c.dtype);
  expect_as_exact_as_plain_code("mean", ours.mean, plain.mean, exact.mean);
  expect_as_exact_as_plain_code("rstd", ours.rstd, plain.rstd, exact.rstd);
  const reference::Norm<float> saved{ours.h, ours.n, ours.mean, ours.rstd};
  const reference::Norm<double> exactly{converted<double>(ours.h), converted<double>(ours.n), converted<double>(ours.mean),
                                        converted<double>(ours.rstd)};
  const auto plain_gradients = plain_norm_backward<float>(c.kind, saved, in.weight, in.dh, in.dn, before);
  const auto exact_gradients = plain_norm_backward<double>(c.kind, exactly, in.weight, in.dh, in.dn, before);
  expect_as_exact_as_plain_code("dx", ours.dx, plain_gradients.dx, exact_gradients.dx, c.dtype);
  expect_as_exact_as_plain_code("dweight", ours.dweight, plain_gradients.dweight, exact_gradients.dweight);
  expect_as_exact_as_plain_code("dbias", ours.dbias, plain_gradients.dbias, exact_gradients.dbias);
  const NormResults first = run_norm(device, c, make_norm_tensors(device, c, s, in, {DType::f32, GradientWrite::Overwrite}));
  const auto plain_first = plain_norm_backward<float>(c.kind, saved, in.weight, in.dh, in.dn, 0);
  const auto exact_first = plain_norm_backward<double>(c.kind, exactly, in.weight, in.dh, in.dn, 0);
  expect_as_exact_as_plain_code("dweight, overwritten", first.dweight, plain_first.dweight, exact_first.dweight);
  expect_as_exact_as_plain_code("dbias, overwritten", first.dbias, plain_first.dbias, exact_first.dbias);
}

/// One call of each op against itself on the same numbers in fp32. The arithmetic is that of fp32 whatever the storage, so every bit is known:
/// this sees what the bound above cannot, truncation and a rounding too many.
inline void expect_norms_rounded_once(TestDevice& device, NormCase c, NormSize s) {
  SCOPED_TRACE(testing::Message() << s.N << " x " << s.H);
  const NormInputs in(c.dtype, s);
  NormInputs wide_in = in;
  wide_in.residual = in.h, wide_in.delta.assign(in.delta.size(), 0);  // what the addition left in 16 bits
  const NormCase wide_case{c.kind, DType::f32};
  const NormResults wide = run_norm(device, wide_case, make_norm_tensors(device, wide_case, s, wide_in));
  const NormResults ours = run_norm(device, c, make_norm_tensors(device, c, s, in));
  EXPECT_EQ(ours.n, rounded_to(c.dtype, wide.n));
  EXPECT_EQ(ours.dx, rounded_to(c.dtype, wide.dx));
  EXPECT_EQ(ours.rstd, wide.rstd);
}

/// Both norms in each type.
inline std::vector<NormCase> norm_cases() {
  std::vector<NormCase> cases;
  for (const DType dtype : compute_types) cases.push_back({NormKind::LayerNorm, dtype}), cases.push_back({NormKind::RmsNorm, dtype});
  return cases;
}

}  // namespace tessera::op_test
