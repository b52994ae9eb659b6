#pragma once
#include <memory>

#include "kernels/device.h"

namespace tessera {

/// The device of one rank on GPU `gpu`, which becomes the calling thread's current one. ConfigError when it is older than sm_80.
std::unique_ptr<Device> open_cuda_device(int gpu, int threads);

}  // namespace tessera
