// Functions of the CUDA runtime: errors, the device, attributes of kernels.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <thread>

#include "tests/cuda_emulation/device_limits.h"
#include "tests/cuda_emulation/device_memory.h"
#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/settings.h"
#include "tests/cuda_emulation/streams.h"

namespace cuda_emulation {
namespace {

std::recursive_mutex runtime_mutex;  // there before any thread is, and ThreadSanitizer knows it
std::map<std::string, long>& call_counts() {
  static auto* counts = new std::map<std::string, long>;
  return *counts;
}
thread_local cudaError_t last_error = cudaSuccess;
thread_local int calls_inside = 0;  // how often this thread holds the lock
thread_local int this_threads_gpu = 0;

struct ErrorName {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorName error_names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};
const ErrorName& name_of(cudaError_t error) {
  static constexpr ErrorName unknown = {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};
  for (const ErrorName& known : error_names) {
    if (known.error == error) return known;
  }
  return unknown;
}

}  // namespace

Call::Call(const char* function) {
  runtime_mutex.lock();
  calls_inside++;
  call_counts()[function]++;
}
Call::~Call() {
  calls_inside--;
  runtime_mutex.unlock();
}

void let_others_call() {
  for (int i = 0; i < calls_inside; i++) runtime_mutex.unlock();
  std::this_thread::sleep_for(std::chrono::microseconds(20));
  for (int i = 0; i < calls_inside; i++) runtime_mutex.lock();
}

int current_gpu() { return this_threads_gpu; }

long calls_of(const char* function) {
  const std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
  return call_counts()[function];
}

cudaError_t fail(cudaError_t error) { return last_error = error; }

}  // namespace cuda_emulation

using namespace cuda_emulation;  // the functions below have C names

extern "C" {

/// calls_of, for tests that have opened a module with the emulation inside.
__attribute__((visibility("default"))) long tessera_emulation_calls_of(const char* function) { return calls_of(function); }

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorString(cudaError_t error) { return name_of(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return name_of(error).name; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = settings().gpus;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= settings().gpus) return fail(cudaErrorInvalidDevice);
  this_threads_gpu = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = this_threads_gpu;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = runtime_version;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= settings().gpus) return fail(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated CUDA device");
  properties->totalGlobalMem = settings().device_bytes;
  properties->major = capability_major;
  properties->minor = capability_minor;
  properties->multiProcessorCount = multiprocessors;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerBlock = shared_bytes_default;
  properties->sharedMemPerBlockOptin = shared_bytes_opt_in;
  properties->sharedMemPerMultiprocessor = shared_bytes_per_sm;
  properties->l2CacheSize = l2_bytes;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= settings().gpus) return fail(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(shared_bytes_default);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(shared_bytes_opt_in);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(shared_bytes_per_sm);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability_major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability_minor;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrL2CacheSize:
      *value = l2_bytes;
      break;
    default:
      fault("cudaDeviceGetAttribute: attribute %d is not emulated", static_cast<int>(attribute));
  }
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const Call call("cudaMemGetInfo");
  *total_bytes = settings().device_bytes;
  *free_bytes = settings().device_bytes - device_bytes_taken();
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Call call("cudaFuncSetAttribute");
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || !allow_dynamic_shared(kernel, static_cast<std::size_t>(value))) return fail(cudaErrorInvalidValue);
  return cudaSuccess;
}
cudaError_t cudaFuncGetName(const char** name, const void*) {
  *name = "(emulated kernel)";
  return cudaSuccess;
}

}  // extern "C"
