#pragma once
// Errors of CUDA and cuBLAS as Tessera's errors, with what was called and where.
#include <cublas_api.h>
#include <cuda_runtime_api.h>

#include <string>

namespace tessera::cuda {

/// A place in the sources; as a default argument, the caller's. (std::source_location, which clang 14 does not know.)
struct Where {
  const char* file = "";
  int line = 0;
  static constexpr Where here(const char* file_ = __builtin_FILE(), int line_ = __builtin_LINE()) { return {file_, line_}; }
};

/// Nothing on success. Throws OutOfMemoryError when the device is full, ConfigError when there is no usable device or driver, else
/// InternalError; `what` is the call, say "cudaMemcpyAsync of 4096 bytes". An error of a kernel shows at a later call: CUDA reports late.
void check(cudaError_t status, const std::string& what, Where where = Where::here());
void check(cublasStatus_t status, const std::string& what, Where where = Where::here());

}  // namespace tessera::cuda
