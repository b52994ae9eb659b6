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

void print_info() {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const auto device = Device::cpu(cores);
  const std::optional<int64_t> available = available_memory_bytes();
  fmt::print("tessera   {}\ncpu       {}, {} threads, {} kernels\nmatmul    {} measured, fp32\nmemory    {}\n\n", TESSERA_VERSION,
             device->traits().name, cores, device->traits().isa, format_rate(measured_matmul_flops_per_second(*device), "FLOP"),
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
