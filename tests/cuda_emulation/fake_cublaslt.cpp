// cuBLASLt's matmul as plain loops, behind the real header's declarations: what the engine says by descriptors, layouts and attributes is what
// is computed. Instrumented, so that a wrong extent or leading dimension is an access out of bounds. What it does not know it refuses, never
// ignores.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/cuda_emulation/emulator.h"

namespace {

struct Description {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;  // read by BIAS, written by the epilogues of bias gradients
  void* aux = nullptr;   // the pre-activation of DGELU
  int64_t aux_leading = 0;
  cudaDataType_t bias_type{};
  bool has_bias_type = false;
};

/// Column-major: element (r, c) at r + c * leading; batch z at z * stride.
struct Layout {
  cudaDataType_t type{};
  uint64_t rows = 0, columns = 0;
  int64_t leading = 0, stride = 0;
  int32_t batches = 1;
  cublasLtOrder_t order = CUBLASLT_ORDER_COL;
};

struct Preference {
  size_t workspace_bytes_max = 0;
};

Description& description_of(cublasLtMatmulDesc_t handle) { return *reinterpret_cast<Description*>(handle); }
Layout& layout_of(cublasLtMatrixLayout_t handle) { return *reinterpret_cast<Layout*>(handle); }
Preference& preference_of(cublasLtMatmulPreference_t handle) { return *reinterpret_cast<Preference*>(handle); }

// Each algorithm asks for another workspace, so that a choice is a choice; all compute the same.
constexpr size_t algorithm_workspace_bytes[] = {1024, 256, 0};
constexpr int algorithms = 3;

bool is_known(cudaDataType_t type) { return type == CUDA_R_32F || type == CUDA_R_16BF || type == CUDA_R_16F; }

float load(const void* data, cudaDataType_t type, int64_t i) {
  if (type == CUDA_R_16BF) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  if (type == CUDA_R_16F) return __half2float(static_cast<const __half*>(data)[i]);
  return static_cast<const float*>(data)[i];
}
void store(void* data, cudaDataType_t type, int64_t i, float value) {
  if (type == CUDA_R_16BF) {
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
  } else if (type == CUDA_R_16F) {
    static_cast<__half*>(data)[i] = __float2half_rn(value);
  } else {
    static_cast<float*>(data)[i] = value;
  }
}

template <class T>
cublasStatus_t take(T& member, const void* value, size_t bytes) {
  if (!value || bytes != sizeof member) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&member, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

/// d [m, n] = alpha op(a) op(b) + beta c, then the epilogue.
struct Product {
  Description how;
  Layout a, b, c, d;
  const void *a_data, *b_data, *c_data;
  void* d_data;
  float alpha, beta;

  int64_t m() const { return static_cast<int64_t>(d.rows); }
  int64_t n() const { return static_cast<int64_t>(d.columns); }
  int64_t k() const { return static_cast<int64_t>(how.transpose_a == CUBLAS_OP_N ? a.columns : a.rows); }
  bool has_epilogue(cublasLtEpilogue_t one, cublasLtEpilogue_t other) const { return how.epilogue == one || how.epilogue == other; }
};

bool fits(const Layout& l) { return l.leading >= static_cast<int64_t>(l.rows) && l.batches > 0 && (l.batches == 1 || l.stride >= 0); }

cublasStatus_t check(const Product& p) {
  const uint64_t a_rows = p.how.transpose_a == CUBLAS_OP_N ? p.a.rows : p.a.columns;
  const uint64_t b_rows = p.how.transpose_b == CUBLAS_OP_N ? p.b.rows : p.b.columns;
  const uint64_t b_columns = p.how.transpose_b == CUBLAS_OP_N ? p.b.columns : p.b.rows;
  for (const Layout* l : {&p.a, &p.b, &p.c, &p.d}) {
    if (l->order != CUBLASLT_ORDER_COL) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!fits(*l) || l->batches != p.d.batches) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (a_rows != p.d.rows || b_columns != p.d.columns || b_rows != static_cast<uint64_t>(p.k())) return CUBLAS_STATUS_INVALID_VALUE;
  if (p.c.rows != p.d.rows || p.c.columns != p.d.columns || p.c.type != p.d.type) return CUBLAS_STATUS_INVALID_VALUE;
  if (p.a.type != p.b.type || (p.a.type == CUDA_R_32F && p.d.type != CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (p.d.type != p.a.type && p.d.type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool is_plain = p.how.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
  if (!is_plain && p.d.batches != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool has_bias = p.how.epilogue == CUBLASLT_EPILOGUE_BIAS || p.how.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD ||
                        p.has_epilogue(CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB);
  const bool has_aux = p.has_epilogue(CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD);
  if (!is_plain && !has_bias && !has_aux) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (has_bias && !p.how.bias) return CUBLAS_STATUS_INVALID_VALUE;
  // cuBLASLt: the leading dimension of the auxiliary matrix is a multiple of 8 and at least m.
  if (has_aux && (!p.how.aux || p.how.aux_leading < p.m() || p.how.aux_leading % 8 != 0)) return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

// Accumulation in fp32, in the order of k.
float dot(const Product& p, int64_t z, int64_t i, int64_t j) {
  const bool ta = p.how.transpose_a != CUBLAS_OP_N, tb = p.how.transpose_b != CUBLAS_OP_N;
  float sum = 0;
  for (int64_t x = 0; x < p.k(); x++) {
    const int64_t a_at = z * p.a.stride + (ta ? x + i * p.a.leading : i + x * p.a.leading);
    const int64_t b_at = z * p.b.stride + (tb ? j + x * p.b.leading : x + j * p.b.leading);
    sum += load(p.a_data, p.a.type, a_at) * load(p.b_data, p.b.type, b_at);
  }
  return sum;
}

// The derivative of GELU's tanh approximation, which is cuBLASLt's.
double gelu_slope(double x) {
  const double scale = 0.7978845608028654, cubic = 0.044715;  // sqrt(2 / pi)
  const double t = std::tanh(scale * (x + cubic * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x);
}

cudaDataType_t bias_type_of(const Product& p) { return p.how.has_bias_type ? p.how.bias_type : p.d.type; }

void multiply(const Product& p) {
  for (int64_t z = 0; z < p.d.batches; z++) {
    for (int64_t j = 0; j < p.n(); j++) {
      for (int64_t i = 0; i < p.m(); i++) {
        float value = p.alpha * dot(p, z, i, j);
        if (p.beta != 0) value += p.beta * load(p.c_data, p.c.type, z * p.c.stride + i + j * p.c.leading);  // 0: c is not read
        if (p.how.epilogue == CUBLASLT_EPILOGUE_BIAS) value += load(p.how.bias, bias_type_of(p), i);
        if (p.has_epilogue(CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD)) {
          value *= static_cast<float>(gelu_slope(load(p.how.aux, p.d.type, i + j * p.how.aux_leading)));
        }
        store(p.d_data, p.d.type, z * p.d.stride + i + j * p.d.leading, value);
      }
    }
  }
}

// DGELU_BGRAD: the sum of d over its columns [m]. BGRADA, BGRADB: the sum of op(a) [m] or op(b) [n] over k.
void sum_bias_gradient(const Product& p) {
  const auto write = [&](int64_t count, auto term, int64_t terms) {
    for (int64_t i = 0; i < count; i++) {
      float sum = 0;
      for (int64_t x = 0; x < terms; x++) sum += term(i, x);
      store(p.how.bias, bias_type_of(p), i, sum);
    }
  };
  const bool ta = p.how.transpose_a != CUBLAS_OP_N, tb = p.how.transpose_b != CUBLAS_OP_N;
  if (p.how.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
    write(
        p.m(), [&](int64_t i, int64_t j) { return load(p.d_data, p.d.type, i + j * p.d.leading); }, p.n());
  } else if (p.how.epilogue == CUBLASLT_EPILOGUE_BGRADA) {
    write(
        p.m(), [&](int64_t i, int64_t x) { return load(p.a_data, p.a.type, ta ? x + i * p.a.leading : i + x * p.a.leading); }, p.k());
  } else if (p.how.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
    write(
        p.n(), [&](int64_t j, int64_t x) { return load(p.b_data, p.b.type, tb ? j + x * p.b.leading : x + j * p.b.leading); }, p.k());
  }
}

Product product_of(cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                   cublasLtMatrixLayout_t d) {
  return {description_of(how), layout_of(a), layout_of(b), layout_of(c), layout_of(d), nullptr, nullptr, nullptr, nullptr, 1, 0};
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new char);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<char*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return 130000; }
size_t cublasLtGetCudartVersion() { return 13000; }
const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "an emulated cuBLAS error";
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasGetStatusString(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute, cudaDataType_t scale) {
  if (scale != CUDA_R_32F || (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(new Description{compute});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete &description_of(description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle, cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  Description& d = description_of(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(d.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(d.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(d.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(d.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return take(d.aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return take(d.aux_leading, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      d.has_bias_type = true;
      return take(d.bias_type, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows, uint64_t columns,
                                          int64_t leading) {
  if (!is_known(type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (rows == 0 || columns == 0) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, leading});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &layout_of(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle, cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  Layout& l = layout_of(handle);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return take(l.batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return take(l.stride, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return take(l.order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return take(l.leading, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete &preference_of(preference);
  return CUBLAS_STATUS_SUCCESS;
}
// Promised alignments and reduction schemes change no result.
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return take(preference_of(preference).workspace_bytes_max, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  *found = 0;
  const cublasStatus_t status = check(product_of(how, a, b, c, d));
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  for (int algorithm = 0; algorithm < algorithms && *found < wanted; algorithm++) {
    if (algorithm_workspace_bytes[algorithm] > preference_of(preference).workspace_bytes_max) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
    result = {};
    result.algo.data[0] = static_cast<uint64_t>(algorithm) + 1;
    result.workspaceSize = algorithm_workspace_bytes[algorithm];
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1;
  }
  return *found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  const cublasStatus_t status = check(product_of(how, a, b, c, d));
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (algorithm->data[0] == 0 || algorithm->data[0] > algorithms) return CUBLAS_STATUS_INVALID_VALUE;
  *result = {};
  result->algo = *algorithm;
  result->workspaceSize = algorithm_workspace_bytes[algorithm->data[0] - 1];
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t how, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  Product p = product_of(how, a_layout, b_layout, c_layout, d_layout);
  const cublasStatus_t status = check(p);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  p.a_data = a, p.b_data = b, p.c_data = c, p.d_data = d;
  p.alpha = *static_cast<const float*>(alpha), p.beta = *static_cast<const float*>(beta);
  const uint64_t chosen = algorithm ? algorithm->data[0] : algorithms;
  if (chosen == 0 || chosen > algorithms) return CUBLAS_STATUS_INVALID_VALUE;
  const size_t needed = algorithm_workspace_bytes[chosen - 1];
  if (needed > workspace_bytes || (needed > 0 && !workspace)) return CUBLAS_STATUS_INVALID_VALUE;
  cuda_emulation::enqueue(stream, [p, workspace, needed] {
    if (needed > 0) std::memset(workspace, 0xff, needed);  // overwritten, as the real one is
    multiply(p);
    sum_bias_gradient(p);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
