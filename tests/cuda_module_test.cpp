#include "kernels/cuda_module.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "kernels/device.h"

namespace tessera {
namespace {

TEST(CudaModule, AFileThatIsNotThereIsNamed) {
  const CudaModuleLoad load = open_cuda_module("libtessera_nowhere.so");
  EXPECT_EQ(load.module, nullptr);
  EXPECT_EQ(load.why_not, "libtessera_nowhere.so: not found");
}

TEST(CudaModule, ALibraryThatIsNoModuleIsRefused) {
  const CudaModuleLoad load = open_cuda_module("libm.so.6");
  EXPECT_EQ(load.module, nullptr);
  EXPECT_NE(load.why_not.find("tessera_cuda_module"), std::string::npos) << load.why_not;
}

TEST(CudaModule, OpensOrSaysWhyNot) {
  const CudaModuleLoad& load = cuda_module();
  EXPECT_EQ(load.module == nullptr, !load.why_not.empty());
  if (!load.module) return;
  std::string why_not;
  const bool none = load.module->gpus(why_not).empty();
  EXPECT_EQ(none, !why_not.empty());
  for (const char* component : {"driver", "toolkit", "cuBLAS", "cuDNN"}) {
    const auto versions = load.module->versions();
    const auto found = std::ranges::find(versions, component, [](const auto& version) { return version.first; });
    ASSERT_NE(found, versions.end()) << component;
    EXPECT_FALSE(found->second.empty()) << component;
  }
}

TEST(CudaModule, AsksForMoreHardwareQueuesThanARankHasStreams) {
  if (!cuda_module().module) GTEST_SKIP() << cuda_module().why_not;
  EXPECT_NE(std::getenv("CUDA_DEVICE_MAX_CONNECTIONS"), nullptr) << "unless the user has said how many, the module does";
}

TEST(CudaModule, ADeviceWithoutAGpuIsAnErrorOfTheCommandLineThatGivesTheReason) {
  std::string why_not = cuda_module().why_not;
  if (cuda_module().module && !cuda_module().module->gpus(why_not).empty()) return;  // there is one
  try {
    Device::cuda(0, 1);
    FAIL() << "a device came";
  } catch (const ConfigError& error) {
    EXPECT_NE(error.text().what.find(why_not), std::string::npos) << error.text().what;
    EXPECT_EQ(error.text().where, "--device cuda");
  }
}

}  // namespace
}  // namespace tessera
