// The functions of cuDNN that are called here, under their own names: each finds itself in the library that is opened at run time, so that
// the module starts where there is none. Hidden outside of the module (CMakeLists.txt).
#include "kernels/cuda/cudnn_library.h"

#include <cudnn.h>
#include <dlfcn.h>

#include <cstdlib>

#include "base/error.h"

namespace tessera::cuda {
namespace {

struct Library {
  void* handle = nullptr;
  std::string why_not;
};

const Library& library() {
  static const Library opened = [] {
    const char* named = std::getenv("TESSERA_CUDNN");
    Library result;
    result.handle = dlopen(named ? named : "libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!result.handle) result.why_not = dlerror();
    return result;
  }();
  return opened;
}

/// The library's function of this name. `own` only tells its type.
template <class Function>
Function* in_library(const char* name, Function* /*own*/) {
  void* symbol = library().handle ? dlsym(library().handle, name) : nullptr;
  if (!symbol) throw InternalError(std::string("cuDNN has no function ") + name);
  return reinterpret_cast<Function*>(symbol);
}

}  // namespace

const std::string& why_no_cudnn() { return library().why_not; }

}  // namespace tessera::cuda

using tessera::cuda::in_library;

extern "C" {

size_t cudnnGetVersion() { return in_library("cudnnGetVersion", &cudnnGetVersion)(); }
const char* cudnnGetErrorString(cudnnStatus_t status) { return in_library("cudnnGetErrorString", &cudnnGetErrorString)(status); }
void cudnnGetLastErrorString(char* message, size_t size) { in_library("cudnnGetLastErrorString", &cudnnGetLastErrorString)(message, size); }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return in_library("cudnnCreate", &cudnnCreate)(handle); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return in_library("cudnnDestroy", &cudnnDestroy)(handle); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return in_library("cudnnSetStream", &cudnnSetStream)(handle, stream);
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  return in_library("cudnnGetStream", &cudnnGetStream)(handle, stream);
}
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  return in_library("cudnnBackendCreateDescriptor", &cudnnBackendCreateDescriptor)(type, descriptor);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return in_library("cudnnBackendDestroyDescriptor", &cudnnBackendDestroyDescriptor)(descriptor);
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void* elements) {
  return in_library("cudnnBackendSetAttribute", &cudnnBackendSetAttribute)(descriptor, name, type, count, elements);
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t* count, void* elements) {
  return in_library("cudnnBackendGetAttribute", &cudnnBackendGetAttribute)(descriptor, name, type, room, count, elements);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return in_library("cudnnBackendFinalize", &cudnnBackendFinalize)(descriptor);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t variants) {
  return in_library("cudnnBackendExecute", &cudnnBackendExecute)(handle, plan, variants);
}

}  // extern "C"
