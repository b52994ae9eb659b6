// The stand-in for cuBLASLt, by its own API: transposes, leading dimensions, batches, scales, epilogues, against fp64 loops.
#include <cublasLt.h>

#include <cmath>
#include <limits>

#include "kernels/cuda/vector_access.h"
#include "tests/cuda_emulation/cuda_test.h"

namespace tessera::cuda {
namespace {

/// d = alpha op(a) op(b) + beta c, column-major: extents, padding of the leading dimensions, batches.
struct Problem {
  int m = 5, n = 7, k = 11, batches = 1;
  bool transpose_a = false, transpose_b = false;
  int padding = 0;  // rows that the leading dimension is longer by
  float alpha = 1, beta = 0;

  int a_rows() const { return transpose_a ? k : m; }
  int b_rows() const { return transpose_b ? n : k; }
  int a_leading() const { return a_rows() + padding; }
  int b_leading() const { return b_rows() + padding; }
  int d_leading() const { return m + padding; }
  size_t a_stride() const { return static_cast<size_t>(a_leading() * (transpose_a ? m : k)); }
  size_t b_stride() const { return static_cast<size_t>(b_leading() * (transpose_b ? k : n)); }
  size_t d_stride() const { return static_cast<size_t>(d_leading() * n); }
};

template <class T>
constexpr cudaDataType_t type_of = std::is_same_v<T, float>    ? CUDA_R_32F
                                   : std::is_same_v<T, __half> ? CUDA_R_16F
                                                               : CUDA_R_16BF;

/// A layout for the time of a call.
class MatrixLayout {
 public:
  MatrixLayout(cudaDataType_t type, int rows, int columns, int leading, int32_t batches, size_t stride_) {
    check(cublasLtMatrixLayoutCreate(&layout_, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), leading), "layout");
    const auto stride = static_cast<int64_t>(stride_);
    check(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches), "batches");
    check(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride), "stride");
  }
  ~MatrixLayout() { cublasLtMatrixLayoutDestroy(layout_); }
  MatrixLayout(const MatrixLayout&) = delete;
  MatrixLayout& operator=(const MatrixLayout&) = delete;
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

template <class T>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

template <class T>
struct Matrices {
  std::vector<T> a, b, d;  // d holds c before the call
};
template <class T>
Matrices<T> random_matrices(const Problem& p) {
  const auto rounded = [&p](size_t stride, unsigned seed) {
    std::vector<T> values;
    for (const float value : random_floats(stride * static_cast<size_t>(p.batches), seed)) values.push_back(from_float<T>(value));
    return values;
  };
  return {rounded(p.a_stride(), 1), rounded(p.b_stride(), 2), rounded(p.d_stride(), 3)};
}

struct Epilogue {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_leading = 0;
};

template <class T>
std::vector<T> run(const Problem& p, const Matrices<T>& in, const Epilogue& epilogue = {}) {
  const TestStream stream;
  const DeviceVector<T> a(in.a), b(in.b), d(in.d);
  const DeviceVector<char> workspace(1024);
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t how;
  cublasLtMatmulPreference_t preference;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  check(cublasLtMatmulDescCreate(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  set(how, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(how, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(how, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue.kind);
  if (epilogue.bias) set(how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias);
  if (epilogue.aux) set(how, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.aux);
  if (epilogue.aux) set(how, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, epilogue.aux_leading);
  const MatrixLayout a_layout(type_of<T>, p.a_rows(), p.transpose_a ? p.m : p.k, p.a_leading(), p.batches, p.a_stride());
  const MatrixLayout b_layout(type_of<T>, p.b_rows(), p.transpose_b ? p.k : p.n, p.b_leading(), p.batches, p.b_stride());
  const MatrixLayout d_layout(type_of<T>, p.m, p.n, p.d_leading(), p.batches, p.d_stride());
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const size_t granted = 300;  // less than the first algorithm wants
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &granted, sizeof granted), "preference");
  cublasLtMatmulHeuristicResult_t results[8];
  int found = 0;
  check(cublasLtMatmulAlgoGetHeuristic(handle, how, a_layout, b_layout, d_layout, d_layout, preference, 8, results, &found), "heuristic");
  EXPECT_EQ(found, 2);
  EXPECT_EQ(cublasLtMatmul(handle, how, &p.alpha, a.data(), a_layout, b.data(), b_layout, &p.beta, d.data(), d_layout, d.data(), d_layout,
                           &results[0].algo, nullptr, 0, stream),
            CUBLAS_STATUS_INVALID_VALUE);  // without the workspace that it asked for
  check(cublasLtMatmul(handle, how, &p.alpha, a.data(), a_layout, b.data(), b_layout, &p.beta, d.data(), d_layout, d.data(), d_layout,
                       &results[0].algo, workspace.data(), results[0].workspaceSize, stream),
        "cublasLtMatmul");
  stream.synchronize();
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatmulDescDestroy(how);
  cublasLtDestroy(handle);
  return d.values();
}

/// Sum and sum of absolute values of element (i, j) of batch z, in fp64.
struct Exact {
  double value = 0, absolute = 0;
};
template <class T>
Exact exact(const Problem& p, const Matrices<T>& in, int z, int i, int j) {
  Exact sum;
  for (int x = 0; x < p.k; x++) {
    const T a =
        in.a[static_cast<size_t>(z) * p.a_stride() + static_cast<size_t>(p.transpose_a ? x + i * p.a_leading() : i + x * p.a_leading())];
    const T b =
        in.b[static_cast<size_t>(z) * p.b_stride() + static_cast<size_t>(p.transpose_b ? j + x * p.b_leading() : x + j * p.b_leading())];
    const double term = double{p.alpha} * to_float(a) * to_float(b);
    sum.value += term;
    sum.absolute += std::fabs(term);
  }
  const double c =
      p.beta == 0 ? 0 : double{p.beta} * to_float(in.d[static_cast<size_t>(z) * p.d_stride() + static_cast<size_t>(i + j * p.d_leading())]);
  return {sum.value + c, sum.absolute + std::fabs(c)};
}

/// Rounding to T once, and fp32 sums of k + 2 terms.
template <class T>
double bound(const Problem& p, const Exact& e) {
  const double storage = std::is_same_v<T, float> ? 0 : std::is_same_v<T, __half> ? 0x1p-11 : 0x1p-8;
  return storage * std::fabs(e.value) + (p.k + 2) * std::numeric_limits<float>::epsilon() * e.absolute + 0x1p-24;
}

template <class T>
void expect_exact(const Problem& p) {
  const Matrices<T> in = random_matrices<T>(p);
  const std::vector<T> d = run(p, in);
  for (int z = 0; z < p.batches; z++) {
    for (int j = 0; j < p.n; j++) {
      for (int i = 0; i < p.d_leading(); i++) {
        const size_t at = static_cast<size_t>(z) * p.d_stride() + static_cast<size_t>(i + j * p.d_leading());
        if (i >= p.m) {
          EXPECT_EQ(to_float(d[at]), to_float(in.d[at]));  // padding stays
          continue;
        }
        const Exact e = exact(p, in, z, i, j);
        EXPECT_NEAR(to_float(d[at]), e.value, bound<T>(p, e)) << z << ": " << i << ", " << j;
      }
    }
  }
}

template <class T>
class FakeCublasLt : public testing::Test {};
using Types = testing::Types<float, __nv_bfloat16, __half>;
TYPED_TEST_SUITE(FakeCublasLt, Types);

TYPED_TEST(FakeCublasLt, MultipliesInEveryTransposeWithLeadingDimensionsAndBatches) {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const int padding : {0, 3}) {
        for (const int batches : {1, 3}) expect_exact<TypeParam>({5, 7, 11, batches, transpose_a, transpose_b, padding});
      }
    }
  }
}

TYPED_TEST(FakeCublasLt, ScalesAndAddsInPlace) { expect_exact<TypeParam>({4, 6, 9, 2, true, false, 1, -0.5f, 2.0f}); }

TEST(FakeCublasLtEpilogues, BiasIsAddedToEachColumn) {
  const Problem p;
  const Matrices<float> in = random_matrices<float>(p);
  const std::vector<float> bias = random_floats(5, 4);
  const DeviceVector<float> on_device(bias);
  const std::vector<float> d = run(p, in, {CUBLASLT_EPILOGUE_BIAS, on_device.data()});
  for (int i = 0; i < p.m; i++) {
    const Exact e = exact(p, in, 0, i, 2);
    EXPECT_NEAR(d[static_cast<size_t>(i + 2 * p.m)], e.value + bias[static_cast<size_t>(i)], bound<float>(p, e) + 1e-6);
  }
}

TEST(FakeCublasLtEpilogues, GeluGradientIsTheSlopeOfGeluAndItsSumTheBiasGradient) {
  Problem p;
  p.m = 8;
  const Matrices<float> in = random_matrices<float>(p);
  const std::vector<float> before = random_floats(static_cast<size_t>(p.m * p.n), 5), plain = run(p, in);
  const DeviceVector<float> aux(before), bias_gradient(8);
  const std::vector<float> d = run(p, in, {CUBLASLT_EPILOGUE_DGELU_BGRAD, bias_gradient.data(), aux.data(), p.m});
  const auto gelu = [](double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); };
  std::vector<double> sums(8);
  for (size_t i = 0; i < d.size(); i++) {
    const double step = 1e-5, slope = (gelu(before[i] + step) - gelu(before[i] - step)) / (2 * step);  // errs by step^2 and 1e-16 / step
    EXPECT_NEAR(d[i], plain[i] * slope, 1e-6 * (1 + std::fabs(plain[i])));
    sums[i % 8] += d[i];
  }
  for (size_t i = 0; i < 8; i++) EXPECT_NEAR(bias_gradient.values()[i], sums[i], 1e-5);
}

TEST(FakeCublasLtEpilogues, BiasGradientIsTheSumOverK) {
  const Problem p;
  const Matrices<float> in = random_matrices<float>(p);
  const DeviceVector<float> of_a(5), of_b(7);
  run(p, in, {CUBLASLT_EPILOGUE_BGRADA, of_a.data()});
  run(p, in, {CUBLASLT_EPILOGUE_BGRADB, of_b.data()});
  double a_sum = 0, b_sum = 0;
  for (int x = 0; x < p.k; x++) a_sum += in.a[static_cast<size_t>(1 + x * p.m)], b_sum += in.b[static_cast<size_t>(x + 2 * p.k)];
  EXPECT_NEAR(of_a.values()[1], a_sum, 1e-5);
  EXPECT_NEAR(of_b.values()[2], b_sum, 1e-5);
}

TEST(FakeCublasLtEpilogues, WhatIsNotKnownIsRefused) {
  cublasLtMatmulDesc_t how;
  EXPECT_EQ(cublasLtMatmulDescCreate(&how, CUBLAS_COMPUTE_64F, CUDA_R_64F), CUBLAS_STATUS_NOT_SUPPORTED);
  check(cublasLtMatmulDescCreate(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const int32_t value = 0;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(how, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &value, sizeof value), CUBLAS_STATUS_NOT_SUPPORTED);
  check(cublasLtMatmulDescDestroy(how), "cublasLtMatmulDescDestroy");
}

}  // namespace
}  // namespace tessera::cuda
