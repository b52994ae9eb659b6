// tessera info: the machine as Tessera sees it, and the published models it knows.
#include <fmt/format.h>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <thread>

#include "base/system_memory.h"
#include "base/units.h"
#include "kernels/cuda_module.h"
#include "kernels/device.h"
#include "model/decls.h"
#include "parallel/nccl_group.h"
#include "tools/commands.h"

namespace tessera {

namespace {

/// "562 GFLOP/s in fp32, 1.1 TFLOP/s in bf16, ..."
std::string matmul_rates(Device& device) {
  std::string text;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    text += fmt::format("{}{} in {}", text.empty() ? "" : ", ", format_rate(measured_matmul_flops_per_second(device, dtype), "FLOP"),
                        name_of(dtype));
  }
  return text;
}

/// Each GPU and the versions of what drives it, or why there is none.
void print_cuda() {
  const CudaModuleLoad& load = cuda_module();
  if (!load.module) return fmt::print("cuda      not available: {}\n", load.why_not);
  std::string why_not;
  const std::vector<GpuInfo> gpus = load.module->gpus(why_not);
  if (gpus.empty()) fmt::print("cuda      no GPU: {}\n", why_not);
  for (size_t i = 0; i < gpus.size(); i++) {
    fmt::print("gpu {:<5} {}, {}, {} multiprocessors, {}\n", i, gpus[i].name, gpus[i].isa, gpus[i].multiprocessors,
               format_bytes(gpus[i].memory_bytes));
  }
  for (const auto& [component, version] : load.module->versions()) fmt::print("{:9} {}\n", component, version);
  fmt::print("{:9} {}\n", "NCCL", nccl_version());
}

void print_info() {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const auto device = Device::cpu(cores);
  device->reserve(device->workspace_size());
  const std::optional<int64_t> available = available_memory_bytes();
  fmt::print("tessera   {}\ncpu       {}, {} threads, {} kernels\nmatmul    {} measured, by {}\nmemory    {}\n", TESSERA_VERSION,
             device->traits().name, cores, device->traits().isa, matmul_rates(*device), matmul_library(),
             available ? format_bytes(*available) + " available" : "unknown");
  print_cuda();
  std::puts("");
  fmt::print("{:16} {:>18} {:>20}  {}\n", "preset", "parameters", "12 l h^2 + 2 v h", "source");
  for (const ModelPreset& preset : model_presets()) {
    fmt::print("{:16} {:>18} {:>20}  {}\n", preset.name, parameter_count(declare_model(preset.spec)), lecture_parameter_count(preset.spec),
               preset.source);
  }
}

}  // namespace

void add_info(CLI::App& app) { app.add_subcommand("info", "this machine and the presets")->callback(print_info); }

}  // namespace tessera
