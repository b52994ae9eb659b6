#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

class Device;

/// A GPU as the driver describes it.
struct GpuInfo {
  std::string name;  // "NVIDIA H200"
  std::string isa;   // "sm_90"
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
};

/// What libtessera_cuda.so offers. Everything that knows CUDA stands behind it.
class CudaModule {
 public:
  virtual ~CudaModule() = default;
  /// Name and version of each component: driver, toolkit, cuBLAS, cuDNN; or why one is missing. NCCL is parallel/'s (nccl_group.h).
  virtual std::vector<std::pair<std::string, std::string>> versions() const = 0;
  /// Those that can be used. None: `why_not` says the reason.
  virtual std::vector<GpuInfo> gpus(std::string& why_not) const = 0;
  /// ConfigError when GPU `gpu` cannot be used.
  virtual std::unique_ptr<Device> open(int gpu, int threads) const = 0;
};

/// The module, opened once and never closed, or the reason why it did not open: libtessera_cuda.so beside this code, or the file that the
/// environment variable TESSERA_CUDA_MODULE names (tests run the kernels in emulation so).
struct CudaModuleLoad {
  const CudaModule* module = nullptr;
  std::string why_not;
  void* library = nullptr;
  /// A C function of the module's; nullptr when there is none.
  void* function(const char* name) const;
};
const CudaModuleLoad& cuda_module();
/// How many GPUs can be used, one at least: ConfigError with the reason where there is none.
int expect_gpus();

/// Opens a module's file and asks it, through its one C function `tessera_cuda_module`. `path` without a '/' is looked for as dlopen does.
CudaModuleLoad open_cuda_module(const std::string& path);

}  // namespace tessera
