#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

/// NCCL's C interface as libnccl.so.2 has had it since 2.14, as far as it is used here: NCCL is no part of the toolkit, so its header is not
/// asked for. Where it is found, nccl_library.cpp is checked against it when compiled.
struct ncclComm;

namespace tessera::nccl {

enum class Result : int {
  Success = 0,
  UnhandledCudaError = 1,
  SystemError = 2,
  InternalError = 3,
  InvalidArgument = 4,
  InvalidUsage = 5,
  RemoteError = 6,
  InProgress = 7,
};
enum class DataType : int { Uint8 = 1 };
struct UniqueId {
  char internal[128];
};
/// The first fields, which is all of 2.14's; NCCL reads no more than `size` bytes and knows by `version` which they are.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef, version = 21400;
  int blocking = 0;  // calls return InProgress rather than wait for other ranks: so that abort() may come in between
};

/// libnccl.so.2, opened at the first use and never closed.
struct Library {
  std::string why_not;  // empty: all functions are there
  Result (*get_version)(int*) = nullptr;
  Result (*get_unique_id)(UniqueId*) = nullptr;
  Result (*init_rank)(ncclComm**, int ranks, UniqueId, int rank, Config*) = nullptr;
  Result (*finalize)(ncclComm*) = nullptr;
  Result (*destroy)(ncclComm*) = nullptr;
  Result (*abort)(ncclComm*) = nullptr;
  Result (*get_async_error)(ncclComm*, Result*) = nullptr;
  const char* (*get_error_string)(Result) = nullptr;
  Result (*group_start)() = nullptr;
  Result (*group_end)() = nullptr;
  Result (*send)(const void*, size_t, DataType, int peer, ncclComm*, cudaStream_t) = nullptr;
  Result (*receive)(void*, size_t, DataType, int peer, ncclComm*, cudaStream_t) = nullptr;
  Result (*all_gather)(const void*, void*, size_t, DataType, ncclComm*, cudaStream_t) = nullptr;
};
const Library& library();

/// Nothing on success, or when the call goes on by itself. CommError otherwise; `what` is the call and the group.
void check(Result result, const std::string& what);

}  // namespace tessera::nccl
