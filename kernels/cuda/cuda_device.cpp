#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>

#include "base/error.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_queue.h"
#include "kernels/cuda/workspace.h"

namespace tessera {

using cuda::check;

namespace {

struct GpuBytes {
  size_t available = 0, all = 0;
  int64_t used() const { return static_cast<int64_t>(all - available); }
};

GpuBytes gpu_bytes() {
  GpuBytes bytes;
  check(cudaMemGetInfo(&bytes.available, &bytes.all), "cudaMemGetInfo");
  return bytes;
}

cudaDeviceProp properties_of(int gpu) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, gpu), "cudaGetDeviceProperties");
  return properties;
}

DeviceTraits traits_of(int gpu, int threads) {
  const cudaDeviceProp properties = properties_of(gpu);
  if (properties.major < 8) {
    throw ConfigError({fmt::format("GPU {} is a {}, sm_{}{}", gpu, properties.name, properties.major, properties.minor), "--device cuda",
                       "sm_80 (A100) and newer", "CUDA_VISIBLE_DEVICES chooses among several GPUs"});
  }
  return {.kind = DeviceKind::Cuda,
          .name = properties.name,
          .isa = fmt::format("sm_{}{}", properties.major, properties.minor),
          .threads = threads,
          .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
          .workspace_bytes = cuda_workspace_bytes(properties.multiProcessorCount),
          .host_memory = false,
          .gpu = gpu,
          .multiprocessors = properties.multiProcessorCount};
}

/// The matmul library, set up once for a rank.
class Blas {
 public:
  Blas() { check(cublasLtCreate(&handle_), "cublasLtCreate"); }
  ~Blas() { (void)cublasLtDestroy(handle_); }
  Blas(const Blas&) = delete;
  cublasLtHandle_t handle() const { return handle_; }

 private:
  cublasLtHandle_t handle_ = nullptr;
};

class CudaDevice final : public Device, private MemorySource {
 public:
  /// The GPU is the thread's current one and has its context.
  CudaDevice(DeviceTraits traits, int compute_capability, int64_t context_bytes)
      : Device(std::move(traits), false, new_queues()),
        context_bytes_(context_bytes),
        context_{.workspace = workspace(),
                 .blas = blas_.handle(),
                 .multiprocessors = this->traits().multiprocessors,
                 .compute_capability = compute_capability} {
    matmul_ = make_cuda_matmul_ops(context_);
    attention_ = make_cuda_attention_ops(context_);
    norm_ = make_cuda_norm_ops(context_);
    elementwise_ = make_cuda_elementwise_ops(context_);
    loss_ = make_cuda_loss_ops(context_);
    update_ = make_cuda_update_ops(context_);
  }

  ~CudaDevice() override {
    (void)cudaDeviceSynchronize();  // nothing runs on what goes now
    give_back_ops_and_memory();
  }

  std::optional<int64_t> available_bytes() const override { return static_cast<int64_t>(gpu_bytes().available); }
  std::optional<MemoryInUse> memory_in_use() const override {
    return MemoryInUse{.source = "cudaMemGetInfo", .context_bytes = context_bytes_, .used_bytes = gpu_bytes().used()};
  }

 private:
  static Queues new_queues() { return {std::make_unique<CudaQueue>(), std::make_unique<CudaQueue>(), std::make_unique<CudaQueue>()}; }
  std::unique_ptr<Queue> make_queue() override { return std::make_unique<CudaQueue>(); }
  MemorySource& memory_source() override { return *this; }

  void* take(MemorySpace space, int64_t bytes) override {
    void* memory = nullptr;
    const auto size = static_cast<size_t>(bytes);
    switch (space) {
      case MemorySpace::PinnedHost:
        check(cudaHostAlloc(&memory, size, cudaHostAllocPortable), fmt::format("cudaHostAlloc of {} bytes", bytes));
        std::memset(memory, 0, size);
        return memory;
      case MemorySpace::Device:
        check(cudaMalloc(&memory, size), fmt::format("cudaMalloc of {} bytes", bytes));
        compute().fill_bytes(memory, 0, bytes);
        compute().finish();
        return memory;
      default:
        return system_memory().take(space, bytes);
    }
  }
  void give_back(MemorySpace space, void* memory, int64_t bytes) noexcept override {
    if (space == MemorySpace::Device) {
      (void)cudaFree(memory);
    } else if (space == MemorySpace::PinnedHost) {
      (void)cudaFreeHost(memory);
    } else {
      system_memory().give_back(space, memory, bytes);
    }
  }

  int64_t context_bytes_;
  Blas blas_;
  CudaContext context_;
};

}  // namespace

std::unique_ptr<Device> open_cuda_device(int gpu, int threads) {
  DeviceTraits traits = traits_of(gpu, threads);
  check(cudaSetDevice(gpu), "cudaSetDevice");
  check(cudaFree(nullptr), "making a context");
  const int64_t context_bytes = gpu_bytes().used();
  const cudaDeviceProp properties = properties_of(gpu);
  return std::make_unique<CudaDevice>(std::move(traits), 10 * properties.major + properties.minor, context_bytes);
}

}  // namespace tessera
