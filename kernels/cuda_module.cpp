#include "kernels/cuda_module.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "kernels/device.h"

namespace tessera {

namespace {

constexpr const char* file_name = "libtessera_cuda.so";

/// The folder of the library, or of the program, that holds this code: modules lie beside it.
std::filesystem::path own_folder() {
  Dl_info info{};
  const bool found = dladdr(reinterpret_cast<const void*>(&cuda_module), &info) != 0 && info.dli_fname;
  return found ? std::filesystem::path(info.dli_fname).parent_path() : std::filesystem::path();
}

/// "libcublasLt.so.13: cannot open shared object file: No such file or directory" -> "libcublasLt.so.13: not found".
std::string readable(std::string error) {
  const size_t system = error.find(": cannot open shared object file");
  return system == std::string::npos ? error : error.substr(0, system) + ": not found";
}

CudaModuleLoad open_named_or_beside_this_library() {
  if (const char* named = std::getenv("TESSERA_CUDA_MODULE")) return open_cuda_module(named);
  const std::filesystem::path path = own_folder() / file_name;
  if (!std::filesystem::exists(path))
    return {.module = nullptr, .why_not = "built without CUDA (TESSERA_CUDA, cmake/README.md)", .library = nullptr};
  return open_cuda_module(path.string());
}

}  // namespace

CudaModuleLoad open_cuda_module(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {.module = nullptr, .why_not = readable(dlerror()), .library = nullptr};
  using Entry = const CudaModule* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "tessera_cuda_module"));
  if (!entry) return {.module = nullptr, .why_not = readable(dlerror()), .library = nullptr};
  return {.module = entry(), .why_not = {}, .library = library};
}

void* CudaModuleLoad::function(const char* name) const { return library ? dlsym(library, name) : nullptr; }

const CudaModuleLoad& cuda_module() {
  static const CudaModuleLoad load = open_named_or_beside_this_library();
  return load;
}

int expect_gpus() {
  std::string why_not = cuda_module().why_not;
  const size_t gpus = cuda_module().module ? cuda_module().module->gpus(why_not).size() : 0;
  if (gpus > 0) return static_cast<int>(gpus);
  throw ConfigError(
      {"no GPU can be used: " + why_not, "--device cuda", {}, "`tessera info` says what there is; --device cpu runs anywhere"});
}

std::unique_ptr<Device> Device::cuda(int rank, int threads) {
  const int gpus = expect_gpus();
  return cuda_module().module->open(rank % gpus, threads);
}

}  // namespace tessera
