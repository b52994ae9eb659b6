#include "kernels/device.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/random.h"
#include "base/system_memory.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/workspace.h"
#include "kernels/cuda/workspace.h"
#include "kernels/null/null_ops.h"
// After targets.h, which says what Highway compiles.
#include <hwy/highway.h>

namespace tessera {

const char* name_of(DeviceKind kind) {
  constexpr std::array<const char*, 3> names = {"cpu", "cuda", "null"};
  return names[static_cast<int>(kind)];
}

Device::Device(DeviceTraits traits, bool is_null, Queues queues)
    : traits_(std::move(traits)),
      is_null_(is_null),
      compute_("compute", !is_null, std::move(queues.compute)),
      communication_("communication", !is_null, std::move(queues.communication)),
      copies_("copies", !is_null, std::move(queues.copies)) {
  if (compute_.queue()) compute_.set_transfers(communication_);
  if (is_null) {
    arena_ = Arena::counting();
    take_workspace();
  }
}

void Device::give_back_ops_and_memory() {
  matmul_.reset(), attention_.reset(), norm_.reset(), elementwise_.reset(), loss_.reset(), update_.reset();
  arena_.reset();
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
  arena_ = Arena::reserving(size, memory_source());
  take_workspace();
  // Not every op touches all of it; what is counted shall be what the process has.
  if (!workspace_.empty()) fill({static_cast<std::byte*>(workspace_.data), static_cast<size_t>(workspace_.bytes())}, 0);
}

std::unique_ptr<Arena> Device::separate_arena(const ArenaSize& size) {
  invariant(!is_null_, "a null device has no memory");
  return Arena::reserving(size, memory_source());
}

std::optional<int64_t> Device::available_bytes() const { return available_memory_bytes(); }

static void check_copy(const Tensor& tensor, int64_t bytes) {
  if (tensor.contiguous() && tensor.bytes() == bytes) return;
  throw InternalError(
      fmt::format("a copy of {} bytes from or to a {}tensor of {}", bytes, tensor.contiguous() ? "" : "strided ", tensor.bytes()));
}

void Device::write(Tensor to, const void* from, int64_t bytes) {
  check_copy(to, bytes);
  if (is_null_) return;
  compute_.copy_bytes(to.data, from, bytes);
  compute_.finish();
}

void Device::read(void* to, Tensor from, int64_t bytes) {
  check_copy(from, bytes);
  if (is_null_) return;
  compute_.copy_bytes(to, from.data, bytes);
  compute_.finish();
}

void Device::fill(std::span<std::byte> memory, unsigned char value) {
  if (is_null_) return;
  compute_.fill_bytes(memory.data(), value, std::ssize(memory));
  compute_.finish();
}

void Device::copy(Tensor to, Tensor from, Stream& stream) {
  check_copy(from, to.bytes());
  check_copy(to, from.bytes());
  run_op(stream, {.kind = OpKind::Copy, .shape = {{to.elements()}, to.dtype}, .read_bytes = from.bytes(), .write_bytes = to.bytes()},
         [&] { is_null_ ? void() : stream.copy_bytes(to.data, from.data, to.bytes()); });
}

void Device::await(Event event) const {
  if (!event.pending) return;
  while (!event.pending->advance(event.ticket)) event.pending->sleep(event.ticket);
}

void Device::read_pinned(void* to, Tensor from, int64_t bytes, Event written) const {
  check_copy(from, bytes);
  if (is_null_) return;
  await(written);
  std::memcpy(to, from.data, static_cast<size_t>(bytes));
}

void Device::finish() {
  for (Stream* stream : {&compute_, &communication_, &copies_}) stream->finish();
}

double Device::seconds_of(const std::function<void(Stream&)>& body) {
  invariant(!is_null_, "a null device has no speed");
  finish();  // nothing else runs
  Stream stream("measure", false, make_queue());
  Queue* queue = stream.queue();
  if (!queue) {
    const double start = steady_seconds();
    body(stream);
    return steady_seconds() - start;
  }
  const uint64_t start = queue->mark();
  body(stream);
  const uint64_t end = queue->mark();
  while (!queue->advance(end)) queue->sleep(end);
  return queue->seconds_between(start, end);
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

DeviceTraits imitated_cuda(int threads, int multiprocessors) {
  return {.kind = DeviceKind::Null,
          .name = "null",
          .isa = "sm_90",
          .threads = threads,
          .workspace_bytes = cuda_workspace_bytes(multiprocessors),
          .host_memory = false,
          .multiprocessors = multiprocessors};
}

std::unique_ptr<Device> Device::real(DeviceKind kind, int rank, int threads) {
  invariant(kind != DeviceKind::Null, "a null device is not real");
  return kind == DeviceKind::Cuda ? cuda(rank, threads) : cpu(threads);
}

std::unique_ptr<Device> Device::null(DeviceTraits imitated) { return std::make_unique<NullDevice>(std::move(imitated)); }

void fill_with_numbers(Device& device, const Tensor& tensor) {
  with_storage(tensor.dtype, [&]<class T>(T*) {
    const RandomStream stream(7, RandomPurpose::Sample, "measurements");
    std::vector<T> drawn(static_cast<size_t>(std::min<int64_t>(tensor.elements(), 1 << 16)));
    for (size_t i = 0; i < drawn.size(); i++) drawn[i] = static_cast<T>(stream.normal(i));
    int64_t bytes = std::ssize(drawn) * static_cast<int64_t>(sizeof(T));
    Stream& compute = device.compute();
    auto* data = static_cast<std::byte*>(tensor.data);
    compute.copy_bytes(data, drawn.data(), bytes);
    for (; bytes < tensor.bytes(); bytes *= 2) compute.copy_bytes(data + bytes, data, std::min(bytes, tensor.bytes() - bytes));
    compute.finish();
  });
}

double measured_matmul_flops_per_second(Device& device, DType dtype) {
  // Small matrices do not keep many threads busy; large ones take too long on few. On a GPU: four tiles of 128 x 128 for a multiprocessor at
  // least, 4096 x 4096 on 132 of them.
  const int64_t multiprocessors = device.traits().multiprocessors;
  int64_t smallest = 512, largest = 2048;
  if (multiprocessors > 0) {
    for (smallest = 128; smallest * smallest < 4 * 128 * 128 * multiprocessors;) smallest *= 2;
    largest = 2 * smallest;
  }
  double best = 0;
  const double start = steady_seconds();
  for (int64_t n = smallest; n <= largest && steady_seconds() - start < 0.1; n *= 2) {
    ArenaSize size;
    size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = 3 * arena_rounded(n * n * bytes_of(dtype));
    const auto arena = device.separate_arena(size);
    const auto matrix = [&] {
      const Tensor tensor = arena->permanent(dtype, {n, n}, MemoryCategory::Scratch);
      fill_with_numbers(device, tensor);
      return tensor;
    };
    const Tensor x = matrix(), weight = matrix(), y = matrix();
    for (int repetition = 0; repetition < 5; repetition++) {
      const double of_call = device.seconds_of([&](Stream& stream) { device.matmul().linear_forward(y, x, weight, {}, stream); });
      best = std::max(best, 2.0 * n * n * n / of_call);
    }
  }
  return best;
}

}  // namespace tessera
