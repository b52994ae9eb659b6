#pragma once
#include <filesystem>
#include <functional>
#include <memory>

#include "engine/run_config.h"
#include "engine/signals.h"
#include "engine/trainer.h"
#include "parallel/host_group.h"
#include "report/memory_table.h"
#include "report/messages.h"

namespace tessera {

/// The token files of a run, opened, split and mixed; shared by the ranks of a process.
struct RunData {
  std::unique_ptr<BatchSource> training, validation;
  int64_t validation_samples = 0;  // in which none comes twice
  std::string fingerprint;         // of the tokens, wherever the files lie: their number, the documents, and a checksum of a sample
};
/// ConfigError unless data.path, or data.paths with data.weights, is given; DataError when a file is missing, broken, too short, or holds
/// tokens beyond the vocabulary.
RunData open_run_data(const ResolvedRun& run);

struct TrainingOptions {
  std::filesystem::path run_dir;
  DeviceKind device = DeviceKind::Cpu;  // of every rank
  bool resume = false;
  int64_t start_bytes = 0;  // of this process, before anything was allocated
  MemoryTable predicted;    // paper and formula columns of all ranks, from the planner
};

/// How a run ended.
struct TrainingResult {
  int64_t steps_done = 0, steps = 0;
  bool finished() const { return steps_done >= steps; }
};

/// Trains on this rank from start or resume to the end or a signal: dry run, memory, steps, evaluation, checkpoints, metrics, report.
/// Collective over `host`. `messages` and `signals` (may be null) are used on rank 0 only. OutOfMemoryError, before anything is allocated,
/// when the ranks need more than the machine has; DataError when train.max_skipped_steps steps in a row were not finite. ConfigError when it
/// resumes a run of another model, data, seed or sequence (expect_same_run), or one that is longer than train.steps.
TrainingResult run_training(const ResolvedRun& run, const RunData& data, const TrainingOptions& options, HostGroup& host,
                            Messages& messages, SignalWatch* signals);

/// The files of a run directory.
struct RunFiles {
  std::filesystem::path config, tuning, metrics, report, checkpoints;
  explicit RunFiles(const std::filesystem::path& run_dir)
      : config(run_dir / "config.toml"),
        tuning(run_dir / "tuning.json"),
        metrics(run_dir / "metrics.jsonl"),
        report(run_dir / "report.json"),
        checkpoints(run_dir / "checkpoints") {}
};

}  // namespace tessera
