// NVIDIA's driver as far as cuDNN asks for it when it makes plans for a GPU that is described and not there: kernels are compiled, "loaded"
// and looked at, and nothing runs. A library of the driver's name, so that cuDNN finds this one where a program has loaded it.
#include <dlfcn.h>

namespace {
constexpr int success = 0, not_supported = 801, not_found = 500;  // CUresult
int something;                                                    // what handles point to
int give(void** handle) {
  *handle = &something;
  return success;
}
}  // namespace

// What cuDNN looks up and does not need for plans.
#define ABSENT(name) \
  int name() { return not_supported; }

extern "C" {

int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long, int* status) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (status) *status = *function ? 0 : 1;
  return *function ? success : not_found;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}
int cuLibraryLoadData(void** library) { return give(library); }
int cuLibraryGetKernel(void** kernel) { return give(kernel); }
int cuKernelGetFunction(void** function) { return give(function); }
int cuModuleLoadData(void** module) { return give(module); }
int cuModuleGetFunction(void** function) { return give(function); }
int cuLibraryUnload() { return success; }
int cuModuleUnload() { return success; }
int cuKernelSetAttribute() { return success; }
int cuFuncSetAttribute() { return success; }
int cuKernelGetAttribute(int* value) {
  *value = 1;
  return success;
}
int cuFuncGetAttribute(int* value) { return cuKernelGetAttribute(value); }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks) { return cuKernelGetAttribute(blocks); }
int cuOccupancyMaxPotentialClusterSize(int* size) { return cuKernelGetAttribute(size); }

ABSENT(cuInit)
ABSENT(cuDriverGetVersion)
ABSENT(cuGetErrorName)
ABSENT(cuGetErrorString)
ABSENT(cuDeviceGet)
ABSENT(cuDeviceGetCount)
ABSENT(cuDeviceGetAttribute)
ABSENT(cuDevicePrimaryCtxRetain)
ABSENT(cuDevicePrimaryCtxRelease)
ABSENT(cuDevicePrimaryCtxReset)
ABSENT(cuCtxGetCurrent)
ABSENT(cuCtxGetDevice)
ABSENT(cuCtxGetLimit)
ABSENT(cuCtxPushCurrent)
ABSENT(cuCtxPopCurrent)
ABSENT(cuStreamGetCtx)
ABSENT(cuStreamSynchronize)
ABSENT(cuLaunchKernel)
ABSENT(cuLaunchKernelEx)
ABSENT(cuLaunchCooperativeKernel)
ABSENT(cuLibraryLoadFromFile)
ABSENT(cuLinkCreate)
ABSENT(cuLinkCreate_v2)
ABSENT(cuLinkAddData)
ABSENT(cuLinkAddData_v2)
ABSENT(cuLinkAddFile_v2)
ABSENT(cuLinkComplete)
ABSENT(cuLinkDestroy)
ABSENT(cuModuleLoadDataEx)
ABSENT(cuModuleLoadFatBinary)
ABSENT(cuModuleGetGlobal_v2)
ABSENT(cuMemcpyDtoH_v2)
ABSENT(cuTensorMapEncodeTiled)

}  // extern "C"
