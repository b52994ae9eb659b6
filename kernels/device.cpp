#include "kernels/device.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/system_memory.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/workspace.h"
#include "kernels/null/null_ops.h"
// After targets.h, which says what Highway compiles.
#include <hwy/highway.h>

namespace tessera {

const char* name_of(DeviceKind kind) {
  constexpr std::array<const char*, 3> names = {"cpu", "cuda", "null"};
  return names[static_cast<int>(kind)];
}

Device::Device(DeviceTraits traits, bool is_null)
    : traits_(std::move(traits)), is_null_(is_null), compute_("compute", !is_null), communication_("communication", !is_null) {
  if (is_null) {
    arena_ = Arena::counting();
    take_workspace();
  }
}

void Device::take_workspace() {
  if (traits_.workspace_bytes > 0) workspace_ = arena_->permanent(DType::u8, {traits_.workspace_bytes}, MemoryCategory::Workspace);
}

ArenaSize Device::workspace_size() const {
  ArenaSize size;
  size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = arena_rounded(traits_.workspace_bytes);
  return size;
}

Arena& Device::arena() {
  invariant(arena_ != nullptr, "the device has no memory yet: reserve comes first");
  return *arena_;
}

void Device::reserve(const ArenaSize& size) {
  if (is_null_) return;  // it counts from its birth
  invariant(arena_ == nullptr, "a device reserves its memory once");
  arena_ = Arena::reserving(size);
  take_workspace();
  // Not every op touches all of it; what is counted shall be what the process has.
  if (!workspace_.empty()) std::memset(workspace_.data, 0, static_cast<size_t>(workspace_.bytes()));
}

static void check_copy(const Tensor& tensor, int64_t bytes) {
  if (tensor.contiguous() && tensor.bytes() == bytes) return;
  throw InternalError(
      fmt::format("a copy of {} bytes from or to a {}tensor of {}", bytes, tensor.contiguous() ? "" : "strided ", tensor.bytes()));
}

void Device::write(Tensor to, const void* from, int64_t bytes) {
  check_copy(to, bytes);
  if (!is_null_) std::memcpy(to.data, from, static_cast<size_t>(bytes));
}

void Device::read(void* to, Tensor from, int64_t bytes) {
  check_copy(from, bytes);
  if (!is_null_) std::memcpy(to, from.data, static_cast<size_t>(bytes));
}

namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

/// The instruction set that Highway's run-time dispatch chooses among those compiled.
std::string instruction_set() {
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(usable & -usable);  // lower bits are better
}

class CpuDevice : public Device {
 public:
  explicit CpuDevice(int threads)
      : Device({.kind = DeviceKind::Cpu,
                .name = processor_name(),
                .isa = instruction_set(),
                .threads = threads,
                .memory_bytes = memory_capacity_bytes().value_or(0),
                .workspace_bytes = cpu_workspace_bytes(threads)},
               false) {
    omp_set_num_threads(threads);  // of the calling thread's parallel regions: oneDNN asks for no other number
    matmul_ = make_cpu_matmul_ops(threads, workspace());
    attention_ = make_cpu_attention_ops(threads, workspace());
    norm_ = make_cpu_norm_ops(threads, workspace());
    elementwise_ = make_cpu_elementwise_ops(threads);
    loss_ = make_cpu_loss_ops(threads, workspace());
    update_ = make_cpu_update_ops(threads);
  }
};

class NullDevice : public Device {
 public:
  explicit NullDevice(DeviceTraits imitated) : Device(std::move(imitated), true) {
    matmul_ = make_null_matmul_ops();
    attention_ = make_null_attention_ops();
    norm_ = make_null_norm_ops();
    elementwise_ = make_null_elementwise_ops();
    loss_ = make_null_loss_ops();
    update_ = make_null_update_ops();
  }
};

}  // namespace

DeviceTraits imitated_cpu(int threads) {
  return {.kind = DeviceKind::Null, .name = "null", .threads = threads, .workspace_bytes = cpu_workspace_bytes(threads)};
}

std::unique_ptr<Device> Device::cpu(int threads) {
  invariant(threads >= 1, "a device has at least one thread");
  return std::make_unique<CpuDevice>(threads);
}

std::unique_ptr<Device> Device::null(DeviceTraits imitated) { return std::make_unique<NullDevice>(std::move(imitated)); }

double measured_matmul_flops_per_second(Device& device, DType dtype) {
  invariant(!device.is_null(), "a null device has no speed");
  Stream stream("measure", false);
  double best = 0;
  const double start = steady_seconds();
  // Small matrices do not keep many threads busy; large ones take too long on few.
  for (int64_t n = 512; n <= 2048 && steady_seconds() - start < 0.1; n *= 2) {
    const auto bytes = static_cast<size_t>(n * n * bytes_of(dtype));
    std::vector<std::byte> x(bytes), weight(bytes), y(bytes);
    const auto matrix = [&](std::vector<std::byte>& values) { return Tensor(values.data(), dtype, {n, n}); };
    for (int repetition = 0; repetition < 5; repetition++) {
      const double before = steady_seconds();
      device.matmul().linear_forward(matrix(y), matrix(x), matrix(weight), {}, stream);
      best = std::max(best, 2.0 * n * n * n / (steady_seconds() - before));
    }
  }
  return best;
}

}  // namespace tessera
