#include "engine/checkpoint_manifest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "report/json_file.h"

namespace tessera {

constexpr int64_t version = 1;

void CheckpointManifest::add(const CheckpointManifest& other) {
  const auto first_file = static_cast<int64_t>(files.size());
  files.insert(files.end(), other.files.begin(), other.files.end());
  for (const auto& [name, theirs] : other.tensors) {
    SavedTensor& ours = tensors.try_emplace(name, SavedTensor{theirs.dtype, theirs.shape, {}}).first->second;
    if (ours.dtype != theirs.dtype || ours.shape != theirs.shape) {
      throw DataError({"ranks disagree on the shape or dtype of tensor " + name, {}, {}, {}});
    }
    for (SavedBox saved : theirs.boxes) {
      saved.file += first_file;
      ours.boxes.push_back(std::move(saved));
    }
  }
}

void CheckpointManifest::check_whole() const {
  for (const auto& [name, tensor] : tensors) {
    int64_t missing = 1;
    for (int64_t extent : tensor.shape) missing *= extent;
    for (size_t i = 0; i < tensor.boxes.size(); i++) {
      const Box& box = tensor.boxes[i].box;
      missing -= box.elements();
      for (size_t j = 0; j < i; j++) {
        if (!intersection(box, tensor.boxes[j].box)) continue;
        throw DataError({fmt::format("boxes {} and {} of tensor {} overlap", tensor.boxes[j].box.text(), box.text(), name), {}, {}, {}});
      }
    }
    if (missing != 0) throw DataError({fmt::format("{} elements of tensor {} are in no box", missing, name), {}, {}, {}});
  }
}

std::string entry_name(const std::string& tensor, const std::vector<int64_t>& shape, const Box& box) {
  return box.extents() == shape ? tensor : tensor + "@" + box.text();
}

// ---- JSON

static std::string checksum_text(uint64_t checksum) { return fmt::format("{:016x}", checksum); }

static uint64_t parse_checksum(const std::string& text) {
  uint64_t checksum = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), checksum, 16);
  if (error != std::errc() || end != text.data() + text.size()) throw DataError({"\"" + text + "\" is no checksum", {}, {}, {}});
  return checksum;
}

static Json to_json(const CheckpointManifest& manifest) {
  Json files = Json::array(), tensors = Json::object();
  for (const auto& file : manifest.files) files.push_back({{"name", file.name}, {"bytes", file.bytes}});
  for (const auto& [name, tensor] : manifest.tensors) {
    Json boxes = Json::array();
    for (const auto& [box, file, checksum] : tensor.boxes) {
      boxes.push_back({{"begin", box.begin}, {"end", box.end}, {"file", file}, {"xxh3", checksum_text(checksum)}});
    }
    // emplace would look for the name among all the others; a map has no name twice.
    tensors.get_ref<Json::object_t&>().emplace_back(name,
                                                    Json{{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"boxes", std::move(boxes)}});
  }
  const CheckpointState& state = manifest.state;
  return {{"format", "tessera checkpoint"},
          {"version", version},
          {"step", state.step},
          {"applied_steps", state.applied_steps},
          {"skipped_in_a_row", state.skipped_in_a_row},
          {"seed", state.seed},
          {"samples", state.samples},
          {"loss_scale", state.loss_scale},
          {"good_steps", state.good_steps},
          {"overflows_left", state.overflows_left},
          {"config", state.config},
          {"data", state.data},
          {"files", std::move(files)},
          {"tensors", std::move(tensors)}};
}

static CheckpointManifest from_json(const Json& json) {
  if (json.at("format") != "tessera checkpoint") throw DataError({"this is no manifest of a checkpoint", {}, {}, {}});
  if (json.at("version") != version) {
    throw DataError({"the checkpoint has format version " + json.at("version").dump(), {}, std::to_string(version), {}});
  }
  CheckpointManifest manifest;
  manifest.state = {.step = json.at("step"),
                    .applied_steps = json.at("applied_steps"),
                    .skipped_in_a_row = json.at("skipped_in_a_row"),
                    .seed = json.at("seed"),
                    .samples = json.at("samples"),
                    .loss_scale = json.at("loss_scale"),
                    .good_steps = json.value("good_steps", int64_t{0}),
                    .overflows_left = json.value("overflows_left", int64_t{0}),
                    .config = json.at("config"),
                    .data = json.at("data")};
  for (const Json& file : json.at("files")) manifest.files.push_back({file.at("name"), file.at("bytes")});
  for (const auto& [name, tensor] : json.at("tensors").items()) {
    CheckpointManifest::SavedTensor& saved = manifest.tensors[name];
    saved.dtype = tensor.at("dtype");
    saved.shape = tensor.at("shape").get<std::vector<int64_t>>();
    for (const Json& box : tensor.at("boxes")) {
      saved.boxes.push_back({{box.at("begin"), box.at("end")}, box.at("file"), parse_checksum(box.at("xxh3"))});
    }
  }
  return manifest;
}

/// What a damaged manifest could still get wrong once its checksum holds: nothing; a foreign one, all of this.
static void check_boxes(const CheckpointManifest& manifest) {
  for (const auto& [name, tensor] : manifest.tensors) {
    for (const auto& saved : tensor.boxes) {
      bool good = saved.file >= 0 && saved.file < static_cast<int64_t>(manifest.files.size()) &&
                  saved.box.begin.size() == tensor.shape.size() && saved.box.end.size() == tensor.shape.size();
      for (size_t axis = 0; good && axis < tensor.shape.size(); axis++) {
        good = 0 <= saved.box.begin[axis] && saved.box.begin[axis] < saved.box.end[axis] && saved.box.end[axis] <= tensor.shape[axis];
      }
      if (!good) throw DataError({"a box of tensor " + name + " lies outside of it", {}, {}, {}});
    }
  }
}

std::string manifest_text(const CheckpointManifest& manifest) {
  const Json content = to_json(manifest);
  const std::string text = content.dump();
  return Json{{"xxh3", checksum_text(XXH3_64bits(text.data(), text.size()))}, {"checkpoint", content}}.dump(1) + "\n";
}

CheckpointManifest parse_manifest(const std::string& text, const std::string& where) {
  try {
    const Json json = Json::parse(text);
    const std::string content = json.at("checkpoint").dump();
    if (parse_checksum(json.at("xxh3")) != XXH3_64bits(content.data(), content.size())) {
      throw DataError({"the manifest is damaged: its checksum differs", {}, {}, {}});
    }
    CheckpointManifest manifest = from_json(json.at("checkpoint"));
    check_boxes(manifest);
    return manifest;
  } catch (const Json::exception&) {
    throw DataError({"this is no manifest of a checkpoint", where, {}, {}});
  } catch (const DataError& error) {
    throw DataError({error.text().what, where, error.text().legal, {}});
  }
}

}  // namespace tessera
