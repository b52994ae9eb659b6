#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "engine/run_config.h"
#include "engine/trainer.h"
#include "parallel/host_group.h"
#include "planner/question.h"
#include "report/memory_table.h"
#include "tokenizer/sentencepiece.h"

namespace tessera {

struct LoadedConfig {
  RunConfig config;
  ConfigSource source;
  int64_t tokenizer_vocab = 0;  // of data.tokenizer; 0: none given
};

/// Files read one over another (empty paths are left out), then each --set, then the tokenizer's size.
LoadedConfig load_config(const std::vector<std::filesystem::path>& files, const std::vector<std::string>& sets);

/// "cpu" or "cuda", the words behind --device and --as.
DeviceKind device_kind(const std::string& name);

/// Checked and resolved. Where precision.compute is "auto", matmuls in bf16 and fp32 are timed on the first rank's device, and a notice says
/// which was taken and why.
ResolvedRun resolve_here(const LoadedConfig& loaded, int ranks, DeviceKind device = DeviceKind::Cpu);
/// The same for what only counts: "auto" is bf16 where this processor, or any GPU that we run on, has instructions for it, so that a plan is
/// that of the run to come.
ResolvedRun resolve_untimed(const LoadedConfig& loaded, int ranks, DeviceKind device = DeviceKind::Cpu);

/// Ranks of a layout when nobody said how many: the product of the axes that are given. ConfigError when it exceeds most_ranks.
int ranks_of(const RunConfig& config);

/// What a null device imitates for a plan of rank `rank`: this machine's GPU of that rank where there is one, else an H100.
DeviceTraits imitated(DeviceKind device, int rank, int threads);
/// The planner's columns for all ranks.
MemoryTable predict_all(const ResolvedRun& run, DeviceKind device = DeviceKind::Cpu);

/// The one-rank trainer of a finished or stopped run, with the weights of its newest checkpoint, for sampling and evaluation.
struct OpenedRun {
  ResolvedRun run;
  int64_t step = 0;
  std::unique_ptr<HostGroup> host;
  std::unique_ptr<Device> device;
  std::unique_ptr<Mesh> mesh;
  std::unique_ptr<Trainer> trainer;
};
/// DataError when the directory holds no run or no checkpoint. `sequences`: of a micro-batch.
OpenedRun open_run(const std::filesystem::path& run_dir, int64_t sequences, DeviceKind device = DeviceKind::Cpu);

}  // namespace tessera
