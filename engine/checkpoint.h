#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/boxes.h"
#include "kernels/device.h"
#include "parallel/host_group.h"
#include "report/messages.h"

namespace tessera {

/// Elements [begin, end) of a logical tensor, and where this rank holds them.
struct CheckpointRange {
  std::string name;    // "weight/blocks.0.mlp.up_proj.weight", "m/...", "v/..."
  Shape shape;         // of the whole logical tensor
  int64_t begin, end;  // row-major element range of it
  Tensor data;         // flat, contiguous, end - begin elements
};

/// What a checkpoint says beside its tensors.
struct CheckpointState {
  int64_t step = 0;  // steps finished
  int64_t applied_steps = 0, skipped_in_a_row = 0;
  int64_t seed = 0, samples = 0;  // data position: samples drawn
  double loss_scale = 1;
  int64_t good_steps = 0, overflows_left = 0;  // of the loss scale
  std::string config;                          // the resolved RUN.toml
  std::string data;                            // RunData::fingerprint of what it was trained on
};

/// Whether what is loaded is all of a checkpoint, or some of its tensors.
enum class LoadWhat : uint8_t { Some, Whole };

/// Checkpoints of one run: DIR/00000120/rank-00000.safetensors ... and manifest.json, which rank 0 renames into place last, after every
/// file is on disk: what has a manifest is complete. Tensors are logical: each rank writes the N-d boxes that its ranges consist of, so
/// any layout loads any checkpoint, and any safetensors reader opens the files. Every tensor carries an XXH3 checksum (in the manifest).
class CheckpointStore {
 public:
  /// Keeps the `keep` newest checkpoints. All functions but `list` are collective over `host`.
  CheckpointStore(std::filesystem::path directory, int64_t keep, HostGroup& host, Messages* messages);

  /// Writes the ranges of all ranks: each element of each tensor exactly once over all ranks (else InternalError). Replaces a checkpoint
  /// of the same step. Removes what unfinished saves left before, and only after the new one is complete what `keep` does not cover and
  /// later steps, which a resume has passed over. A full disk or a failed write: the same DataError on every rank, the older checkpoints
  /// survive and the partial one is removed. Takes 5 MiB of host memory. On a null device nothing is written.
  void save(const CheckpointState& state, const std::vector<CheckpointRange>& ranges, Device& device);

  /// The newest checkpoint whose files are all there and match their checksums; damaged ones and folders without a manifest are named in a
  /// notice and passed over.
  /// No value when there is none at all; DataError when all are damaged.
  std::optional<CheckpointState> newest();
  /// Fills `ranges` from checkpoint `step`, whatever the layout that wrote it; values in another floating-point type are rounded to
  /// nearest. DataError naming a tensor that is missing or has another shape, or, with LoadWhat::Whole, one of the checkpoint that no rank
  /// asks for: a save would lose it.
  void load(int64_t step, const std::vector<CheckpointRange>& ranges, Device& device, LoadWhat what = LoadWhat::Some);

  /// Steps that have a manifest, ascending.
  static std::vector<int64_t> list(const std::filesystem::path& directory);

 private:
  void remove_old(int64_t saved) noexcept;

  std::filesystem::path directory_;
  int64_t keep_;
  HostGroup& host_;
  Messages* messages_;
};

}  // namespace tessera
