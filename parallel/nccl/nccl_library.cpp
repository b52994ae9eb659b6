#include "parallel/nccl/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "base/error.h"
#if __has_include(<nccl.h>)
#include <nccl.h>

namespace tessera::nccl {
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(offsetof(Config, magic) == offsetof(ncclConfig_t, magic) && offsetof(Config, version) == offsetof(ncclConfig_t, version) &&
              offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking) && sizeof(Config) <= sizeof(ncclConfig_t));
static_assert(static_cast<int>(Result::RemoteError) == ncclRemoteError && static_cast<int>(Result::InProgress) == ncclInProgress);
static_assert(static_cast<int>(Result::InvalidUsage) == ncclInvalidUsage && static_cast<int>(DataType::Uint8) == ncclUint8);
}  // namespace tessera::nccl
#endif

namespace tessera::nccl {
namespace {

constexpr const char* file_name = "libnccl.so.2";

/// TESSERA_NCCL names the file, alone; otherwise it is looked for as dlopen does and in CUDA's folders.
std::vector<std::string> candidates() {
  if (const char* named = std::getenv("TESSERA_NCCL")) return {named};
  std::vector<std::string> files = {file_name};
  std::vector<std::string> roots;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* root = std::getenv(variable)) roots.emplace_back(root);
  }
  roots.emplace_back("/usr/local/cuda");
  for (const std::string& root : roots) {
    for (const char* folder : {"/lib64/", "/lib/"}) files.push_back(root + folder + file_name);
  }
  return files;
}

template <class Function>
void find(void* opened, const char* name, Function& function, std::string& why_not) {
  function = reinterpret_cast<Function>(dlsym(opened, name));
  if (!function) why_not = std::string(name) + " is missing: 2.14 or newer is needed";
}

Library open_library() {
  Library nccl;
  const std::vector<std::string> files = candidates();
  void* opened = nullptr;
  for (const std::string& file : files) {
    opened = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened) break;
  }
  if (!opened) {
    nccl.why_not = files.front() + ": not found";
    return nccl;
  }
  find(opened, "ncclGetVersion", nccl.get_version, nccl.why_not);
  find(opened, "ncclGetUniqueId", nccl.get_unique_id, nccl.why_not);
  find(opened, "ncclCommInitRankConfig", nccl.init_rank, nccl.why_not);
  find(opened, "ncclCommFinalize", nccl.finalize, nccl.why_not);
  find(opened, "ncclCommDestroy", nccl.destroy, nccl.why_not);
  find(opened, "ncclCommAbort", nccl.abort, nccl.why_not);
  find(opened, "ncclCommGetAsyncError", nccl.get_async_error, nccl.why_not);
  find(opened, "ncclGetErrorString", nccl.get_error_string, nccl.why_not);
  find(opened, "ncclGroupStart", nccl.group_start, nccl.why_not);
  find(opened, "ncclGroupEnd", nccl.group_end, nccl.why_not);
  find(opened, "ncclSend", nccl.send, nccl.why_not);
  find(opened, "ncclRecv", nccl.receive, nccl.why_not);
  find(opened, "ncclAllGather", nccl.all_gather, nccl.why_not);
  return nccl;
}

}  // namespace

const Library& library() {
  static const Library nccl = open_library();
  return nccl;
}

void check(Result result, const std::string& what) {
  if (result == Result::Success || result == Result::InProgress) return;
  throw CommError({what + ": " + library().get_error_string(result), "NCCL", {}, "NCCL_DEBUG=WARN makes NCCL say more"});
}

}  // namespace tessera::nccl
