// tessera info: the machine as Tessera sees it, and the published models it knows.
#include <fmt/format.h>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <thread>

#include "base/system_memory.h"
#include "base/units.h"
#include "kernels/device.h"
#include "model/decls.h"
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

void print_info() {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const auto device = Device::cpu(cores);
  device->reserve(device->workspace_size());
  const std::optional<int64_t> available = available_memory_bytes();
  fmt::print("tessera   {}\ncpu       {}, {} threads, {} kernels\nmatmul    {} measured, by {}\nmemory    {}\n\n", TESSERA_VERSION,
             device->traits().name, cores, device->traits().isa, matmul_rates(*device), matmul_library(),
             available ? format_bytes(*available) + " available" : "unknown");
  fmt::print("{:16} {:>18} {:>20}  {}\n", "preset", "parameters", "12 l h^2 + 2 v h", "source");
  for (const ModelPreset& preset : model_presets()) {
    fmt::print("{:16} {:>18} {:>20}  {}\n", preset.name, parameter_count(declare_model(preset.spec)), lecture_parameter_count(preset.spec),
               preset.source);
  }
}

}  // namespace

void add_info(CLI::App& app) { app.add_subcommand("info", "this machine and the presets")->callback(print_info); }

}  // namespace tessera
