#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/step_bench.h"
#include "engine/trainer.h"

namespace tessera {

/// A training run small enough for a test: 4 blocks, hidden 32, 4 heads, vocabulary 96, 16 positions, 8 sequences a step in
/// micro-batches of 2, tied, two steps of warm-up, one op thread a rank, and a clip so small that it acts in every step.
struct TinyRun {
  std::vector<std::string> sets;  // "parallel.pp=2", over the defaults above; train.steps (the learning rate's curve) is first_step + steps
  int ranks = 1;                  // threads of this process
  DeviceKind device = DeviceKind::Cpu;
  int64_t steps = 10;  // how many to run
  int64_t first_step = 0;
  const BatchSource* data = nullptr;          // null: RandomSamples
  std::function<void(Trainer&)> start = {};   // on every rank, instead of Trainer::initialize()
  std::function<void(Trainer&)> finish = {};  // on every rank, after the last step
};

/// What the ranks agreed on, and what they hold together, by logical name.
struct TinyResult {
  std::vector<double> losses, norms;                          // of each step: mean loss, global gradient norm before clipping
  std::map<std::string, std::vector<float>> weights;          // at the end, the masters
  std::map<std::string, std::vector<float>> states;           // at the end: "m/NAME", "v/NAME"
  std::map<std::string, std::vector<float>> first_gradients;  // of the first step run: summed over ranks, before clipping
};

/// The configuration of `tiny`, checked and resolved. ConfigError as `resolve`.
ResolvedRun resolve_tiny(const TinyRun& tiny);

/// Trains on `tiny.ranks` thread ranks. Where several ranks hold the same element (replicas, both uses of a tied weight) their bits must be
/// equal, and every element must be held by some rank: InternalError otherwise.
TinyResult run_tiny(const TinyRun& tiny);

/// Expects of the trainer's arena what a dry run of it counts: to the byte, in every space and category. After all that a run does.
void expect_arena_of_dry_run(Trainer& trainer);

/// Settings for a run of several op threads. Micro-batches of 2048 tokens: large enough that every family's ops are cut between threads, and
/// that oneDNN's weight gradients in bf16 have other bits on one thread than on two or three.
std::vector<std::string> team_sets(int threads);

/// The largest error of a tensor: the norm of its difference over the larger of its norm and a thousandth of its share of the whole norm,
/// the square root of its part of the elements. (The gradient of a key bias is zero in theory and noise in practice.)
double worst_tensor_error(const std::map<std::string, std::vector<float>>& got, const std::map<std::string, std::vector<float>>& expected);

}  // namespace tessera
