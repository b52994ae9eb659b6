// What libtessera_cuda.so shows to the rest: one C function.
#include "kernels/cuda_module.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>

#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda_device.h"

namespace tessera {

using cuda::check;

namespace {

/// 13000 -> "13.0", as CUDA numbers its versions.
std::string cuda_version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

/// "580.65.06", of the kernel's module.
std::string kernel_driver() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;) {
    if (word.find('.') != std::string::npos && word.find_first_not_of("0123456789.") == std::string::npos) return word + ", ";
  }
  return {};
}

std::string driver_version() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) return "none";
  return fmt::format("{}CUDA {}", kernel_driver(), cuda_version(version));
}

/// The number that a library's version function gives, when the library is there. It is only asked: nothing here links it.
template <class Ask>
std::string library_version(const char* file, const char* function, Ask ask) {
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  void* symbol = library ? dlsym(library, function) : nullptr;
  const std::string version = symbol ? ask(symbol) : fmt::format("{}: not found", file);
  if (library) dlclose(library);
  return version;
}

std::string cudnn_version() {
  return library_version("libcudnn.so.9", "cudnnGetVersion", [](void* symbol) {
    const size_t number = reinterpret_cast<size_t (*)()>(symbol)();  // 91201
    return fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
  });
}

std::string why_no_gpu(cudaError_t status) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver) return "libcuda.so.1: not found, there is no NVIDIA driver";
  dlclose(driver);
  return cudaGetErrorString(status);
}

class Module final : public CudaModule {
 public:
  std::vector<std::pair<std::string, std::string>> versions() const override {
    const size_t blas = cublasLtGetVersion();  // 130002
    return {{"driver", driver_version()},
            {"toolkit", "CUDA " + cuda_version(CUDART_VERSION)},
            {"cuBLAS", fmt::format("{}.{}.{}", blas / 10000, blas / 100 % 100, blas % 100)},
            {"cuDNN", cudnn_version()}};
  }

  std::vector<GpuInfo> gpus(std::string& why_not) const override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
      (void)cudaGetLastError();  // said here
      why_not = why_no_gpu(status == cudaSuccess ? cudaErrorNoDevice : status);
      return {};
    }
    std::vector<GpuInfo> gpus(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) {
      cudaDeviceProp properties{};
      check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
      gpus[static_cast<size_t>(i)] = {.name = properties.name,
                                      .isa = fmt::format("sm_{}{}", properties.major, properties.minor),
                                      .multiprocessors = properties.multiProcessorCount,
                                      .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem)};
    }
    return gpus;
  }

  std::unique_ptr<Device> open(int gpu, int threads) const override { return open_cuda_device(gpu, threads); }
};

/// CUDA spreads all streams of a GPU over 8 hardware queues unless it is told otherwise before its first context. A rank of a pipeline has
/// more streams than that, and in a queue that two of them share, what waits for a peer holds up what the peer waits for.
bool ask_for_hardware_queues() { return setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0) == 0; }

}  // namespace

}  // namespace tessera

extern "C" const tessera::CudaModule* tessera_cuda_module() {
  [[maybe_unused]] static const bool asked = tessera::ask_for_hardware_queues();
  static const tessera::Module module;  // without state
  return &module;
}
