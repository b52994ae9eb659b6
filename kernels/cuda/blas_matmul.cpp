// cuBLASLt is column-major: a row-major matrix is its transpose there. So c = a b is asked for as c^T = b^T a^T: the library's first factor
// is our b, its rows are our columns, and the bias, which it adds to a column of rows, meets each of our rows.
#include "kernels/cuda/blas_matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/error.h"
#include "kernels/arena.h"
#include "kernels/cuda/check.h"

namespace tessera {

using cuda::check;

namespace {

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      invariant(dtype == DType::f32, "a matrix product of a type that is not fp32, bf16 or fp16");
      return CUDA_R_32F;
  }
}

/// What an arena promises counts, not where a tensor happens to lie: an algorithm's place in the library's list is its name, so the list must
/// be that of the tensors on which it was measured.
uint32_t alignment_of(const Tensor& tensor) {
  constexpr uintptr_t most = arena_alignment_bytes;
  const auto address = reinterpret_cast<uintptr_t>(tensor.data) | most;
  return static_cast<uint32_t>(address & -address);
}

/// A handle of the library that goes with its owner.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_) destroy(handle_);
  }
  Owned(const Owned&) = delete;
  Handle* created() { return &handle_; }
  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class Value>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class Value>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
}

/// A row-major matrix as the library sees it: its rows are columns.
void describe(Layout& layout, DType dtype, int64_t rows, int64_t columns, int64_t row_stride) {
  check(
      cublasLtMatrixLayoutCreate(layout.created(), type_of(dtype), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), row_stride),
      "cublasLtMatrixLayoutCreate");
}

}  // namespace

struct BlasMatmul::Plan {
  Description how;
  Layout a, b, c;
  std::array<cublasLtMatmulHeuristicResult_t, most_algorithms> algorithms;
  int count = 0;

  Plan(cublasLtHandle_t handle, const Key& key) {
    check(cublasLtMatmulDescCreate(how.created(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(how, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(how, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (key.biased) {
      set(how, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      // Until a call names the real one, an address that is aligned alike: nothing is read.
      set(how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, uintptr_t{key.c_alignment});
    }
    describe(a, key.of_factors, key.transpose_a ? key.k : key.m, key.transpose_a ? key.m : key.k, key.a_stride);
    describe(b, key.of_factors, key.transpose_b ? key.n : key.k, key.transpose_b ? key.k : key.n, key.b_stride);
    describe(c, key.of_result, key.m, key.n, key.c_stride);
    find_algorithms(handle, key);
  }

 private:
  void find_algorithms(cublasLtHandle_t handle, const Key& key) {
    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.created()), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(key.workspace_bytes));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);
    // Parts of a sum may meet in fp32 only: the other schemes add them up in the result's type, which rounds more than once.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, how, b, a, c, c, preference, most_algorithms, algorithms.data(), &count);
    const auto usable = [](const cublasLtMatmulHeuristicResult_t& result) { return result.state == CUBLAS_STATUS_SUCCESS; };
    count = static_cast<int>(std::stable_partition(algorithms.begin(), algorithms.begin() + count, usable) - algorithms.begin());
    if (status == CUBLAS_STATUS_SUCCESS && count > 0) return;
    throw InternalError(fmt::format("cuBLASLt has no algorithm for [{}, {}] = [{}, {}] x [{}, {}]: cuBLAS status {}", key.m, key.n, key.m,
                                    key.k, key.k, key.n, static_cast<int>(status)));
  }
};

BlasMatmul::BlasMatmul(cublasLtHandle_t handle) : handle_(handle) {}
BlasMatmul::~BlasMatmul() = default;

BlasMatmul::Key BlasMatmul::key_of(const BlasProduct& p, int64_t workspace_bytes) {
  return {.of_factors = p.a.dtype,
          .of_result = p.c.dtype,
          .transpose_a = p.transpose_a,
          .transpose_b = p.transpose_b,
          .biased = p.bias.shape.rank() > 0,
          .m = p.m(),
          .n = p.n(),
          .k = p.k(),
          .a_stride = p.a.row_stride(),
          .b_stride = p.b.row_stride(),
          .c_stride = p.c.row_stride(),
          .a_alignment = alignment_of(p.a),
          .b_alignment = alignment_of(p.b),
          .c_alignment = std::min(alignment_of(p.c), alignment_of(p.bias)),  // the bias is read as the result is written
          .workspace_bytes = workspace_bytes};
}

BlasMatmul::Plan& BlasMatmul::plan_of(const BlasProduct& product, int64_t workspace_bytes) {
  const Key key = key_of(product, workspace_bytes);
  std::unique_ptr<Plan>& plan = plans_[key];
  if (!plan) plan = std::make_unique<Plan>(handle_, key);
  return *plan;
}

int BlasMatmul::algorithms(const BlasProduct& product, int64_t workspace_bytes) { return plan_of(product, workspace_bytes).count; }

void BlasMatmul::multiply(const BlasProduct& p, int algorithm, std::span<std::byte> workspace, cudaStream_t stream) {
  const auto workspace_bytes = static_cast<int64_t>(workspace.size());
  Plan& plan = plan_of(p, workspace_bytes);
  const auto& chosen = plan.algorithms[static_cast<size_t>(algorithm < plan.count ? algorithm : 0)];
  if (!p.bias.empty()) set(plan.how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.bias.data));
  const float one = 1, before = p.accumulate ? 1 : 0;
  check(cublasLtMatmul(handle_, plan.how, &one, p.b.data, plan.b, p.a.data, plan.a, &before, p.c.data, plan.c, p.c.data, plan.c,
                       &chosen.algo, workspace.data(), chosen.workspaceSize, stream),
        "cublasLtMatmul");
}

}  // namespace tessera
