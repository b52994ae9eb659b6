#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kernels/arena.h"
#include "kernels/attention_ops.h"
#include "kernels/elementwise_ops.h"
#include "kernels/loss_ops.h"
#include "kernels/matmul_ops.h"
#include "kernels/norm_ops.h"
#include "kernels/stream.h"
#include "kernels/update_ops.h"

namespace tessera {

enum class DeviceKind : uint8_t { Cpu, Cuda, Null };
const char* name_of(DeviceKind kind);

/// What a device is, or what a null device pretends to be.
struct DeviceTraits {
  DeviceKind kind = DeviceKind::Cpu;
  std::string name;             // "AMD EPYC", "NVIDIA H200"
  std::string isa;              // "AVX3", as Highway names its target; "sm_90"
  int threads = 1;              // of one rank
  int64_t memory_bytes = 0;     // of the machine, container or GPU, for all its ranks; 0: unknown
  int64_t workspace_bytes = 0;  // of one rank, for the intermediate results of its ops: the first block of its arena
  bool host_memory = true;      // the host writes and reads device memory as its own; otherwise it goes through pinned memory
  int gpu = -1;                 // the machine's number of it; -1: none. Ranks of one GPU share its memory
  int multiprocessors = 0;      // of a GPU
};

/// A cpu device with that many threads, for a null device to imitate.
DeviceTraits imitated_cpu(int threads);
/// The same of a rank on a GPU; an H100 or H200 has 132 multiprocessors.
DeviceTraits imitated_cuda(int threads, int multiprocessors = 132);

/// A device's memory from outside, all that is in use of it, in the words of a source that knows nothing of the arena.
struct MemoryInUse {
  const char* source;     // "cudaMemGetInfo"
  int64_t context_bytes;  // in use when the device's context stood and nothing else
  int64_t used_bytes;     // now
};

/// Memory and arithmetic of one rank: an arena, three streams, the op families. Nothing in it is shared between ranks.
class Device {
 public:
  /// threads >= 1: OpenMP threads of each op. The calling thread is the rank's: its OpenMP settings are changed.
  static std::unique_ptr<Device> cpu(int threads);
  /// The GPU of thread rank `rank`: rank mod the GPUs that are seen. Its ops are enqueued. The calling thread is the rank's: CUDA calls
  /// that it makes from here on go to this GPU. ConfigError, with the reason, where there is none or the module cannot be opened.
  static std::unique_ptr<Device> cuda(int rank, int threads);
  /// Counts, prices and traces as the device it is told of, and computes nothing.
  static std::unique_ptr<Device> null(DeviceTraits imitated);
  /// cpu or cuda.
  static std::unique_ptr<Device> real(DeviceKind kind, int rank, int threads);
  virtual ~Device() = default;
  Device(const Device&) = delete;

  bool is_null() const { return is_null_; }
  const DeviceTraits& traits() const { return traits_; }
  /// The null device counts from its birth; a real one needs `reserve` first.
  Arena& arena();
  /// Takes memory once, to the byte; the workspace is part of `size`. Ops run from here on.
  void reserve(const ArenaSize& size);
  /// What ops need that run outside a trainer, on tensors of the caller's.
  ArenaSize workspace_size() const;
  /// Memory of this device beside its own arena, for measurements; not on null. The device must outlive it.
  std::unique_ptr<Arena> separate_arena(const ArenaSize& size);
  /// Bytes that can still be reserved for device memory, by all ranks that share it; no value when unknown.
  virtual std::optional<int64_t> available_bytes() const;
  /// No value on devices whose memory is the process's.
  virtual std::optional<MemoryInUse> memory_in_use() const { return std::nullopt; }

  Stream& compute() { return compute_; }
  Stream& communication() { return communication_; }
  /// Copies between host and device inside a step.
  Stream& copies() { return copies_; }

  MatmulOps& matmul() { return *matmul_; }
  AttentionOps& attention() { return *attention_; }
  NormOps& norm() { return *norm_; }
  ElementwiseOps& elementwise() { return *elementwise_; }
  LossOps& loss() { return *loss_; }
  UpdateOps& update() { return *update_; }

  /// Host <-> device copies outside a step: contiguous, exactly `bytes`. Ops enqueued on compute() come before, and the host waits. On null
  /// they do nothing (read leaves the buffer as it is).
  void write(Tensor to, const void* from, int64_t bytes);
  void read(void* to, Tensor from, int64_t bytes);
  void fill(std::span<std::byte> memory, unsigned char value);
  /// Inside a step: enqueues a copy between device and pinned memory, contiguous, same shape.
  void copy(Tensor to, Tensor from, Stream& stream);
  /// The host waits for `event`, and for nothing that was enqueued after it; then pinned memory can be read or written.
  void await(Event event) const;
  void read_pinned(void* to, Tensor from, int64_t bytes, Event written) const;
  /// The host waits for everything that is enqueued.
  void finish();
  /// Seconds that the ops enqueued by `body` take, on a stream of their own that shows in no profile. InternalError on null.
  double seconds_of(const std::function<void(Stream&)>& body);

 protected:
  /// What stands behind the streams; nothing where ops run inline.
  struct Queues {
    std::unique_ptr<Queue> compute, communication, copies;
  };
  Device(DeviceTraits traits, bool is_null, Queues queues = {});
  const Tensor& workspace() const { return workspace_; }
  /// A device whose members ops and memory lean on gives both back before those go.
  void give_back_ops_and_memory();
  std::unique_ptr<MatmulOps> matmul_;
  std::unique_ptr<AttentionOps> attention_;
  std::unique_ptr<NormOps> norm_;
  std::unique_ptr<ElementwiseOps> elementwise_;
  std::unique_ptr<LossOps> loss_;
  std::unique_ptr<UpdateOps> update_;

 private:
  void take_workspace();
  virtual MemorySource& memory_source() { return system_memory(); }
  virtual std::unique_ptr<Queue> make_queue() { return nullptr; }

  DeviceTraits traits_;
  bool is_null_;
  std::unique_ptr<Arena> arena_;
  Tensor workspace_;  // empty until memory is reserved
  Stream compute_, communication_, copies_;
};

/// Normal numbers in a contiguous tensor of fp32, bf16 or fp16, for measurements: drawn for the beginning and doubled from there. Zeros are
/// faster than any run: pages never written are one page of zeros, which stays in the caches, some processors write zeros at twice the
/// speed, and a GPU whose bits do not change keeps a higher clock.
void fill_with_numbers(Device& device, const Tensor& tensor);

/// FLOP/s of the fastest of several square matmuls in `dtype` (fp32, bf16, fp16) with the device's threads, on memory of its own: the measured
/// peak of an MFU receipt. The device has memory, its workspace at least. InternalError on null.
double measured_matmul_flops_per_second(Device& device, DType dtype);

}  // namespace tessera
