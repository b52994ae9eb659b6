#pragma once
#include <memory>
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
  std::string name;             // "AMD EPYC"
  std::string isa;              // "AVX3", as Highway names its target
  int threads = 1;              // of one rank
  int64_t memory_bytes = 0;     // of the machine or container, for all its ranks; 0: unknown
  int64_t workspace_bytes = 0;  // of one rank, for the intermediate results of its ops: the first block of its arena
};

/// A cpu device with that many threads, for a null device to imitate.
DeviceTraits imitated_cpu(int threads);

/// Memory and arithmetic of one rank: an arena, two streams, the op families. Nothing in it is shared between ranks.
class Device {
 public:
  /// threads >= 1: OpenMP threads of each op. The calling thread is the rank's: its OpenMP settings are changed.
  static std::unique_ptr<Device> cpu(int threads);
  /// Counts, prices and traces as the device it is told of, and computes nothing.
  static std::unique_ptr<Device> null(DeviceTraits imitated);
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

  Stream& compute() { return compute_; }
  Stream& communication() { return communication_; }

  MatmulOps& matmul() { return *matmul_; }
  AttentionOps& attention() { return *attention_; }
  NormOps& norm() { return *norm_; }
  ElementwiseOps& elementwise() { return *elementwise_; }
  LossOps& loss() { return *loss_; }
  UpdateOps& update() { return *update_; }

  /// Host <-> device copies outside a step: contiguous, exactly `bytes`. On null they do nothing (read leaves the buffer as it is).
  void write(Tensor to, const void* from, int64_t bytes);
  void read(void* to, Tensor from, int64_t bytes);

 protected:
  Device(DeviceTraits traits, bool is_null);
  const Tensor& workspace() const { return workspace_; }
  std::unique_ptr<MatmulOps> matmul_;
  std::unique_ptr<AttentionOps> attention_;
  std::unique_ptr<NormOps> norm_;
  std::unique_ptr<ElementwiseOps> elementwise_;
  std::unique_ptr<LossOps> loss_;
  std::unique_ptr<UpdateOps> update_;

 private:
  void take_workspace();

  DeviceTraits traits_;
  bool is_null_;
  std::unique_ptr<Arena> arena_;
  Tensor workspace_;  // empty until memory is reserved
  Stream compute_, communication_;
};

/// FLOP/s of the fastest of several square matmuls in `dtype` (fp32, bf16, fp16) with the device's threads: the measured peak of an MFU
/// receipt. The device has memory, its workspace at least. InternalError on null.
double measured_matmul_flops_per_second(Device& device, DType dtype);

}  // namespace tessera
