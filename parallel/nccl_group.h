#pragma once
#include <memory>
#include <string>

#include "parallel/host_group.h"

namespace tessera {

/// What moves data between ranks: the configuration's parallel.communicator.
enum class Communicator : uint8_t { Auto, Threads, Nccl };
Communicator communicator_of(const std::string& name);

/// A host group whose communicators are NCCL's, on this rank's GPU `gpu` (-1: none); everything else `host` does. nullptr where `host` makes
/// them itself: when Threads is asked for, or Auto and NCCL cannot be used, because ranks share a GPU or its library is not there.
/// ConfigError when Nccl is asked for and cannot be used. Collective over all ranks. The result must end before `host`.
std::unique_ptr<HostGroup> make_nccl_group(HostGroup& host, int gpu, Communicator wanted);

/// "2.27.7", or why NCCL cannot be used on this machine.
std::string nccl_version();

}  // namespace tessera
