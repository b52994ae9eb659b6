#include "kernels/cuda/check.h"

#include "base/error.h"

namespace tessera::cuda {
namespace {

ErrorText text_of(const std::string& what, const std::string& error, Where where, std::string hint) {
  return {what + ": " + error, std::string(where.file) + ":" + std::to_string(where.line), {}, std::move(hint)};
}

}  // namespace

void check(cudaError_t status, const std::string& what, Where where) {
  if (status == cudaSuccess) return;
  const std::string error = std::string(cudaGetErrorName(status)) + ", " + cudaGetErrorString(status);
  (void)cudaGetLastError();  // said here; the next call shall not say it again
  switch (status) {
    case cudaErrorMemoryAllocation:
      throw OutOfMemoryError(text_of(what, error, where, "another process may use the same GPU: nvidia-smi shows it"));
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
      throw ConfigError(text_of(what, error, where, "`tessera info` shows the driver and the GPUs it finds"));
    default:
      throw InternalError(text_of(what, error, where, "CUDA_LAUNCH_BLOCKING=1 makes a kernel's error show at its own launch"));
  }
}

void check(cublasStatus_t status, const std::string& what, Where where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw InternalError(text_of(what, "cuBLAS status " + std::to_string(static_cast<int>(status)), where, {}));
}

}  // namespace tessera::cuda
