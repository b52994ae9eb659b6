#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/boxes.h"
#include "engine/checkpoint.h"

namespace tessera {

/// What manifest.json says: the state, and which box of which tensor stands in which file under which checksum.
struct CheckpointManifest {
  struct SavedBox {
    Box box;
    int64_t file = 0;       // index into `files`
    uint64_t checksum = 0;  // XXH3, 64 bits, of the box's bytes
  };
  struct SavedTensor {
    std::string dtype;  // as safetensors names it
    std::vector<int64_t> shape;
    std::vector<SavedBox> boxes;
  };
  struct SavedFile {
    std::string name;
    int64_t bytes = 0;
  };
  CheckpointState state;
  std::vector<SavedFile> files;
  std::map<std::string, SavedTensor> tensors;

  /// Adds the files and boxes of another rank. DataError when it knows a tensor under another shape or dtype.
  void add(const CheckpointManifest& other);
  /// DataError unless the boxes of every tensor hold each of its elements exactly once.
  void check_whole() const;
};

/// The name of a box's entry in its safetensors file: "NAME" for a whole tensor, else "NAME@0:3,16:32".
std::string entry_name(const std::string& tensor, const std::vector<int64_t>& shape, const Box& box);

/// JSON that carries a checksum of itself. `where` names it in errors: DataError when it is damaged or foreign.
std::string manifest_text(const CheckpointManifest& manifest);
CheckpointManifest parse_manifest(const std::string& text, const std::string& where);

}  // namespace tessera
