#include "tools/run_loading.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/units.h"
#include "engine/checkpoint.h"
#include "engine/checkpoint_ranges.h"
#include "engine/dry_run.h"
#include "engine/shared_memory.h"
#include "engine/training_run.h"
#include "kernels/cuda_module.h"

namespace tessera {

LoadedConfig load_config(const std::vector<std::filesystem::path>& files, const std::vector<std::string>& sets) {
  LoadedConfig loaded;
  for (const auto& file : files) {
    if (!file.empty()) read_toml_file(file, loaded.config, &loaded.source);
  }
  for (const std::string& set : sets) apply_set(loaded.config, set, &loaded.source);
  if (!loaded.config.data.tokenizer.empty()) loaded.tokenizer_vocab = Tokenizer::open(loaded.config.data.tokenizer).vocabulary();
  return loaded;
}

int ranks_of(const RunConfig& config) {
  const ParallelConfig& parallel = config.parallel;
  const int64_t ranks = parallel.pp * std::max<int64_t>(1, parallel.dp) * parallel.cp * parallel.tp;
  if (ranks > most_ranks) {
    throw ConfigError({fmt::format("parallel.pp = {} x parallel.dp = {} are too many ranks", parallel.pp, parallel.dp),
                       "[parallel]",
                       fmt::format("at most {}", most_ranks),
                       {}});
  }
  return static_cast<int>(ranks);
}

namespace {

/// What precision.compute = "auto" becomes, and why.
struct Choice {
  DType dtype;
  std::string reason;
};

/// Where "auto" stands, choose() decides and a notice says so.
template <class Choose>
ResolvedRun resolve_with(const LoadedConfig& loaded, int ranks, DeviceKind kind, Choose choose) {
  RunsOn where{.device = kind};
  if (loaded.config.precision.compute != "auto") return resolve(loaded.config, loaded.source, ranks, loaded.tokenizer_vocab, where);
  const Choice choice = choose();
  Messages().notice(fmt::format("precision.compute = auto: {}, because {}", name_of(choice.dtype), choice.reason));
  where.fast = choice.dtype;
  return resolve(loaded.config, loaded.source, ranks, loaded.tokenizer_vocab, where);
}

}  // namespace

DeviceKind device_kind(const std::string& name) { return name == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu; }

ResolvedRun resolve_here(const LoadedConfig& loaded, int ranks, DeviceKind kind) {
  return resolve_with(loaded, ranks, kind, [&]() -> Choice {
    const auto device = Device::real(kind, 0, threads_of_a_rank(loaded.config, ranks));
    device->reserve(device->workspace_size());
    double narrow = 0, wide = 0;
    for (int round = 0; round < 3; round++) {  // in turns, so that what else the machine does meets both
      narrow = std::max(narrow, measured_matmul_flops_per_second(*device, DType::bf16));
      wide = std::max(wide, measured_matmul_flops_per_second(*device, DType::f32));
    }
    constexpr double worth_it = 1.2;  // below that, rounding is not worth the gain
    return {narrow >= worth_it * wide ? DType::bf16 : DType::f32,
            fmt::format("matmuls run at {} in bf16 and {} in fp32", format_rate(narrow, "FLOP"), format_rate(wide, "FLOP"))};
  });
}

ResolvedRun resolve_untimed(const LoadedConfig& loaded, int ranks, DeviceKind kind) {
  return resolve_with(loaded, ranks, kind, [&]() -> Choice {
    if (kind == DeviceKind::Cuda) return {DType::bf16, "GPUs since sm_80 multiply it fast (not timed: nothing is computed)"};
    const bool narrow = processor_multiplies(DType::bf16);
    return {narrow ? DType::bf16 : DType::f32,
            fmt::format("this processor has {}instructions for bf16 matmuls (not timed: nothing is computed)", narrow ? "" : "no ")};
  });
}

DeviceTraits imitated(DeviceKind kind, int rank, int threads) {
  if (kind == DeviceKind::Cpu) return imitated_cpu(threads);
  std::string why_not;
  const CudaModule* module = cuda_module().module;
  const std::vector<GpuInfo> gpus = module ? module->gpus(why_not) : std::vector<GpuInfo>();
  return gpus.empty() ? imitated_cuda(threads) : imitated_cuda(threads, gpus[static_cast<size_t>(rank) % gpus.size()].multiprocessors);
}

MemoryTable predict_all(const ResolvedRun& run, DeviceKind kind) {
  MemoryTable table;
  for (int rank = 0; rank < run.layout.ranks(); rank++) {
    table.merge(predict_memory(memory_question(run, imitated(kind, rank, run.threads)), rank));
  }
  return table;
}

OpenedRun open_run(const std::filesystem::path& run_dir, int64_t sequences, DeviceKind kind) {
  const RunFiles files(run_dir);
  if (!std::filesystem::exists(files.config)) {
    throw DataError({run_dir.string() + " holds no run", run_dir.string(), "a directory that `tessera train --run-dir` made", {}});
  }
  LoadedConfig loaded = load_config({files.config}, {});
  loaded.config.parallel.pp = loaded.config.parallel.dp = 1;  // any layout loads any checkpoint
  loaded.config.parallel.threads = 0;                         // those of one rank among many are not those of one alone
  loaded.config.train.batch_size = loaded.config.train.micro_batch_size = sequences;
  OpenedRun opened{.run = resolve(loaded.config, loaded.source, 1, loaded.tokenizer_vocab, {.device = kind})};
  opened.host = make_self_group();
  opened.device = Device::real(kind, 0, opened.run.threads);
  const DryRun dry = dry_run(opened.run, 0, opened.device->traits());
  expect_all_fit(dry, *opened.device, *opened.host);
  opened.device->reserve(dry.size);
  opened.mesh = std::make_unique<Mesh>(opened.run.layout, *opened.host);
  opened.trainer = std::make_unique<Trainer>(opened.run, *opened.device, *opened.mesh);
  Messages messages;
  CheckpointStore store(files.checkpoints, 1, *opened.host, &messages);
  const auto state = store.newest();
  if (!state)
    throw DataError(
        {run_dir.string() + " holds no checkpoint", files.checkpoints.string(), {}, "`tessera train` saves one at its end and on Ctrl-C"});
  store.load(state->step, ranges_to_load(*opened.trainer), *opened.device);
  opened.trainer->restore({.step = state->step}, state->samples);
  opened.step = state->step;
  return opened;
}

}  // namespace tessera
