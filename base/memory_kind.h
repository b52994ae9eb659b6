#pragma once
#include <array>
#include <cstdint>

namespace tessera {

/// What a block of memory is for. Activations: saved for backward and nothing else.
enum class MemoryCategory : uint8_t {
  Weights,
  MasterWeights,
  Gradients,
  OptimizerStates,
  Activations,
  Gathered,
  GradientBuckets,
  DerivedWeights,
  Logits,
  Scratch,
  Workspace,
  CommBuffers,
  Data,
  Snapshot,
  Offload,
  Count
};
enum class MemorySpace : uint8_t { Device, PinnedHost, Host, Count };

constexpr int memory_categories = static_cast<int>(MemoryCategory::Count);
constexpr int memory_spaces = static_cast<int>(MemorySpace::Count);

/// Names of tables and JSON: "weights", "optimizer_states", ...
constexpr const char* name_of(MemoryCategory category) {
  constexpr std::array<const char*, memory_categories> names = {
      "weights", "master_weights", "gradients", "optimizer_states", "activations", "gathered", "gradient_buckets", "derived_weights",
      "logits",  "scratch",        "workspace", "comm_buffers",     "data",        "snapshot", "offload"};
  return names[static_cast<int>(category)];
}
constexpr const char* name_of(MemorySpace space) {
  constexpr std::array<const char*, memory_spaces> names = {"device", "pinned_host", "host"};
  return names[static_cast<int>(space)];
}

}  // namespace tessera
