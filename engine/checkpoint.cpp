#include "engine/checkpoint.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/atomic_file.h"
#include "base/convert.h"
#include "base/error.h"
#include "engine/checkpoint_manifest.h"
#include "engine/safetensors.h"
#include "report/json_file.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr int64_t buffer_bytes = 4 << 20;  // all that saving and loading take beside the tensors
constexpr const char* manifest_name = "manifest.json";

std::string folder_name(int64_t step) { return fmt::format("{:08}", step); }
std::string file_name(int rank) { return fmt::format("rank-{:05}.safetensors", rank); }

/// The step of a checkpoint's folder, complete or not; no value for any other name.
std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || folder_name(step) != name) return {};
  return step;
}

/// Ascending, the incomplete ones, too.
std::vector<fs::path> checkpoint_folders(const fs::path& directory) {
  std::vector<fs::path> folders;
  if (!fs::exists(directory)) return folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.is_directory() && step_of(entry.path())) folders.push_back(entry.path());
  }
  std::ranges::sort(folders, {}, [](const fs::path& folder) { return *step_of(folder); });
  return folders;
}

bool is_complete(const fs::path& folder) { return fs::exists(folder / manifest_name); }

/// The manifest first: what is half removed has none and so is no checkpoint.
void remove_checkpoint(const fs::path& folder) {
  if (fs::remove(folder / manifest_name)) sync_folder(folder);
  fs::remove_all(folder);
}

// ---- errors of one rank are errors of all

std::string error_text(const char* kind, const ErrorText& text, int rank, int ranks) {
  const std::string where = ranks > 1 ? fmt::format("rank {}{}{}", rank, text.where.empty() ? "" : ": ", text.where) : text.where;
  return "!" + Json{{"kind", kind}, {"what", text.what}, {"where", where}, {"legal", text.legal}, {"hint", text.hint}}.dump(
                   -1, ' ', false, Json::error_handler_t::replace);
}

/// Runs `body` on every rank and returns the results of all. When it fails on any, all throw the error of the lowest rank where it did.
/// `body` makes no call of the host group: a rank that fails would leave the others waiting.
template <class Body>
std::vector<std::string> together(HostGroup& host, Body&& body) {
  const int rank = host.rank(), ranks = host.size();
  std::string result;
  try {
    result = "=" + body();
  } catch (const DataError& error) {
    result = error_text("data", error.text(), rank, ranks);
  } catch (const fs::filesystem_error& error) {
    result = error_text("data", {error.code().message(), error.path1().string(), {}, {}}, rank, ranks);
  } catch (const Error& error) {
    result = error_text("internal", error.text(), rank, ranks);
  } catch (const std::exception& error) {
    result = error_text("internal", {error.what(), {}, {}, {}}, rank, ranks);
  }
  std::vector<std::string> results = host.gather(std::move(result));
  for (std::string& text : results) {
    const bool failed = text.front() == '!';
    text.erase(0, 1);
    if (!failed) continue;
    const Json error = Json::parse(text);
    const ErrorText parts{error.at("what"), error.at("where"), error.at("legal"), error.at("hint")};
    if (error.at("kind") == "data") throw DataError(parts);
    throw InternalError(parts);
  }
  return results;
}

/// Runs `body` on rank 0 only; its errors are errors of all.
template <class Body>
void on_first(HostGroup& host, Body&& body) {
  together(host, [&] {
    if (host.rank() == 0) body();
    return std::string();
  });
}

/// XXH3 of bytes that come piece by piece: `piece(at, part)` fills `part`, in `buffer`, with those from `at` on.
template <class Piece>
uint64_t checksum_of(int64_t bytes, std::vector<std::byte>& buffer, Piece&& piece) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(hash.get());
  for (int64_t at = 0; at < bytes; at += buffer_bytes) {
    const std::span<std::byte> part(buffer.data(), std::min(buffer_bytes, bytes - at));
    piece(at, part);
    XXH3_64bits_update(hash.get(), part.data(), part.size());
  }
  return XXH3_64bits_digest(hash.get());
}

// ---- saving

/// A box of a range, and the elements of the range that it consists of.
struct BoxToSave {
  const CheckpointRange* range;
  Box box;
  Tensor data;
};

std::vector<BoxToSave> boxes_to_save(const std::vector<CheckpointRange>& ranges) {
  std::vector<BoxToSave> boxes;
  for (const CheckpointRange& range : ranges) {
    invariant(range.data.elements() == range.end - range.begin, "a checkpoint range has not the size of its data");
    int64_t at = 0;
    for (Box& box : boxes_of(range.shape, range.begin, range.end)) {
      const int64_t elements = box.elements();
      boxes.push_back({&range, std::move(box), range.data.flat_range(at, at + elements)});
      at += elements;
    }
  }
  // Wide elements first, so that each tensor of the file is aligned.
  std::ranges::stable_sort(boxes, std::greater(), [](const BoxToSave& box) { return bytes_of(box.data.dtype); });
  return boxes;
}

/// Writes what this rank has, and returns the part of the manifest that describes it.
CheckpointManifest write_file(const fs::path& path, const std::vector<CheckpointRange>& ranges, Device& device) {
  const std::vector<BoxToSave> boxes = boxes_to_save(ranges);
  std::vector<SafetensorsTensor> entries;
  for (const auto& [range, box, data] : boxes) {
    const std::vector<int64_t> shape(range->shape.begin(), range->shape.end());
    entries.push_back({entry_name(range->name, shape, box), safetensors_name(data.dtype), box.extents()});
  }
  CheckpointManifest manifest;
  SafetensorsWriter writer(path, std::move(entries));
  std::vector<std::byte> buffer(buffer_bytes);
  for (const BoxToSave& saved : boxes) {
    const auto& [range, box, data] = saved;
    const uint64_t checksum = checksum_of(data.bytes(), buffer, [&](int64_t at, std::span<std::byte> part) {
      const int64_t element = bytes_of(saved.data.dtype), begin = at / element;
      device.read(part.data(), saved.data.flat_range(begin, begin + std::ssize(part) / element), std::ssize(part));
      writer.write(part);
    });
    auto& tensor = manifest.tensors[range->name];
    tensor.dtype = safetensors_name(data.dtype);
    tensor.shape.assign(range->shape.begin(), range->shape.end());
    tensor.boxes.push_back({box, 0, checksum});
  }
  writer.finish();
  writer.publish();
  manifest.files.push_back({path.filename().string(), writer.bytes()});
  return manifest;
}

// ---- reading

CheckpointManifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / manifest_name;
  CheckpointManifest manifest = parse_manifest(read_text_file(path), path.string());
  if (folder_name(manifest.state.step) != folder.filename().string()) {
    throw DataError({fmt::format("the manifest is of step {}, not of its folder's", manifest.state.step), path.string(), {}, {}});
  }
  return manifest;
}

/// The files of one checkpoint, opened when first used.
class CheckpointFiles {
 public:
  CheckpointFiles(const fs::path& folder, const CheckpointManifest& manifest) : folder_(folder), manifest_(manifest) {}

  fs::path path(int64_t file) const { return folder_ / manifest_.files[file].name; }

  const SafetensorsFile& open(int64_t file) {
    auto& opened = opened_[file];
    if (!opened) {
      opened = std::make_unique<SafetensorsFile>(path(file));
      if (opened->bytes() != manifest_.files[file].bytes) {
        throw DataError({fmt::format("the file has {} bytes where the manifest says {}", opened->bytes(), manifest_.files[file].bytes),
                         path(file).string(),
                         {},
                         {}});
      }
    }
    return *opened;
  }

  const SafetensorsTensor& entry(const std::string& name, const CheckpointManifest::SavedTensor& tensor,
                                 const CheckpointManifest::SavedBox& saved) {
    const std::string entry = entry_name(name, tensor.shape, saved.box);
    const SafetensorsTensor* found = open(saved.file).find(entry);
    if (found && found->dtype == tensor.dtype && found->shape == saved.box.extents()) return *found;
    throw DataError({"the file lacks the tensor " + entry + " that the manifest names", path(saved.file).string(), {}, {}});
  }

 private:
  fs::path folder_;
  const CheckpointManifest& manifest_;
  std::map<int64_t, std::unique_ptr<SafetensorsFile>> opened_;
};

/// DataError naming the first file or tensor that is damaged, among every `ranks`th file from `rank` on.
void check_files(const fs::path& folder, const CheckpointManifest& manifest, int rank, int ranks) {
  manifest.check_whole();
  CheckpointFiles files(folder, manifest);
  for (size_t file = rank; file < manifest.files.size(); file += ranks) files.open(static_cast<int64_t>(file));
  std::vector<std::byte> buffer(buffer_bytes);
  for (const auto& [name, tensor] : manifest.tensors) {
    for (const auto& saved : tensor.boxes) {
      if (saved.file % ranks != rank) continue;
      const SafetensorsTensor& entry = files.entry(name, tensor, saved);
      const SafetensorsFile& file = files.open(saved.file);
      if (checksum_of(entry.bytes(), buffer, [&](int64_t at, std::span<std::byte> part) { file.read(entry, at, part); }) ==
          saved.checksum) {
        continue;
      }
      throw DataError({"the data of tensor " + entry.name + " does not match its checksum", files.path(saved.file).string(), {}, {}});
    }
  }
}

/// Fills one range from every saved box that has a part of it.
void load_range(const CheckpointRange& range, const CheckpointManifest& manifest, CheckpointFiles& files, const fs::path& folder,
                Device& device, std::vector<std::byte>& buffer) {
  invariant(range.data.elements() == range.end - range.begin, "a checkpoint range has not the size of its data");
  const auto found = manifest.tensors.find(range.name);
  if (found == manifest.tensors.end()) throw DataError({"the checkpoint has no tensor " + range.name, folder.string(), {}, {}});
  const CheckpointManifest::SavedTensor& tensor = found->second;
  const std::vector<int64_t> shape(range.shape.begin(), range.shape.end());
  const std::optional<DType> saved_type = safetensors_dtype(tensor.dtype);
  if (tensor.shape != shape || !saved_type ||
      (saved_type != range.data.dtype && !(is_compute_type(*saved_type) && is_compute_type(range.data.dtype)))) {
    throw DataError({fmt::format("tensor {} is {} {} in the checkpoint, but {} {} in this run", range.name, tensor.dtype,
                                 Json(tensor.shape).dump(), safetensors_name(range.data.dtype), Json(shape).dump()),
                     folder.string(),
                     {},
                     "resume with the model that wrote it"});
  }
  const Box whole = Box::whole(range.shape);
  const int64_t element = bytes_of(*saved_type);
  std::vector<std::byte> converted(saved_type == range.data.dtype ? 0 : buffer_bytes);
  for (const Box& wanted : boxes_of(range.shape, range.begin, range.end)) {
    for (const auto& saved : tensor.boxes) {
      const std::optional<Box> part = intersection(wanted, saved.box);
      if (!part) continue;
      const SafetensorsTensor& entry = files.entry(range.name, tensor, saved);
      for_each_run(saved.box, whole, *part, [&](int64_t from, int64_t to, int64_t elements) {
        const int64_t step = buffer_bytes / std::max(element, bytes_of(range.data.dtype));
        for (int64_t at = 0; at < elements; at += step) {
          const int64_t count = std::min(step, elements - at), target = to + at - range.begin;
          files.open(saved.file).read(entry, (from + at) * element, {buffer.data(), static_cast<size_t>(count * element)});
          const Tensor piece = range.data.flat_range(target, target + count);
          if (!converted.empty()) convert(converted.data(), piece.dtype, buffer.data(), *saved_type, count);
          device.write(piece, converted.empty() ? buffer.data() : converted.data(), piece.bytes());
        }
      });
    }
  }
}

}  // namespace

// ---- the store

CheckpointStore::CheckpointStore(fs::path directory, int64_t keep, HostGroup& host, Messages* messages)
    : directory_(std::move(directory)), keep_(keep), host_(host), messages_(host.rank() == 0 ? messages : nullptr) {
  invariant(keep >= 1, "a store keeps at least one checkpoint");
}

void CheckpointStore::save(const CheckpointState& state, const std::vector<CheckpointRange>& ranges, Device& device) {
  if (device.is_null()) return;
  const fs::path folder = directory_ / folder_name(state.step);
  bool complete = false;
  try {
    on_first(host_, [&] {
      for (const fs::path& other : checkpoint_folders(directory_)) {
        if (other == folder || !is_complete(other)) remove_checkpoint(other);
      }
      fs::create_directories(folder);
      sync_folder(directory_);
    });
    const std::vector<std::string> parts =
        together(host_, [&] { return manifest_text(write_file(folder / file_name(host_.rank()), ranges, device)); });
    on_first(host_, [&] {
      CheckpointManifest manifest;
      manifest.state = state;
      try {
        for (const std::string& part : parts) manifest.add(parse_manifest(part, folder.string()));
        manifest.check_whole();
      } catch (const DataError& error) {  // what the ranks brought, not what a disk did
        throw InternalError(error.text());
      }
      write_text_atomically(folder / manifest_name, manifest_text(manifest));
      complete = true;
    });
  } catch (...) {
    std::error_code ignored;  // the first error is the one to show
    if (host_.rank() == 0 && !complete) fs::remove_all(folder, ignored);
    throw;
  }
  if (host_.rank() == 0) remove_old(state.step);
}

void CheckpointStore::remove_old(int64_t saved) noexcept {
  try {
    std::vector<int64_t> steps = list(directory_);
    // A resume passed over the later ones, as they were damaged; this run has left their path.
    const auto later = std::ranges::upper_bound(steps, saved);
    std::vector<int64_t> removed(later, steps.end());
    const auto kept = std::min<int64_t>(keep_, later - steps.begin());
    removed.insert(removed.end(), steps.begin(), later - kept);
    for (int64_t step : removed) remove_checkpoint(directory_ / folder_name(step));
  } catch (const std::exception& error) {
    if (messages_) messages_->notice(std::string("an old checkpoint could not be removed: ") + error.what());
  }
}

std::optional<CheckpointState> CheckpointStore::newest() {
  // All ranks look through what rank 0 sees.
  std::vector<int64_t> steps = Json::parse(together(host_, [&] { return Json(list(directory_)).dump(); }).front());
  on_first(host_, [&] {
    for (const fs::path& folder : checkpoint_folders(directory_)) {
      if (is_complete(folder) || !messages_) continue;
      messages_->notice(fmt::format("{} has no {}, as an unfinished save; it is passed over, and the next save removes it", folder.string(),
                                    manifest_name));
    }
  });
  if (steps.empty()) return {};
  std::string damages;
  for (; !steps.empty(); steps.pop_back()) {
    const fs::path folder = directory_ / folder_name(steps.back());
    CheckpointState state;
    const std::vector<std::string> reports = together(host_, [&] {
      try {
        const CheckpointManifest manifest = read_manifest(folder);
        check_files(folder, manifest, host_.rank(), host_.size());
        state = manifest.state;
        return std::string();
      } catch (const DataError& error) {
        return fmt::format("{}: {}", error.text().where, error.text().what);
      }
    });
    const auto damage = std::ranges::find_if_not(reports, &std::string::empty);
    if (damage == reports.end()) return state;
    if (messages_) messages_->notice(fmt::format("the checkpoint of step {} is damaged and passed over: {}", steps.back(), *damage));
    damages += (damages.empty() ? "" : "; ") + *damage;
  }
  throw DataError({"every checkpoint is damaged: " + damages, directory_.string(), {}, {}});
}

void CheckpointStore::load(int64_t step, const std::vector<CheckpointRange>& ranges, Device& device, LoadWhat what) {
  if (device.is_null()) return;
  const fs::path folder = directory_ / folder_name(step);
  std::set<std::string> left;
  const std::vector<std::string> loaded = together(host_, [&] {
    const CheckpointManifest manifest = read_manifest(folder);
    manifest.check_whole();
    CheckpointFiles files(folder, manifest);
    std::vector<std::byte> buffer(buffer_bytes);
    Json names = Json::array();
    for (const CheckpointRange& range : ranges) {
      load_range(range, manifest, files, folder, device, buffer);
      names.push_back(range.name);
    }
    for (const auto& [name, tensor] : manifest.tensors) left.insert(name);
    return names.dump();
  });
  if (what == LoadWhat::Some) return;
  for (const std::string& names : loaded) {
    for (const std::string name : Json::parse(names)) left.erase(name);
  }
  if (left.empty()) return;
  throw DataError({fmt::format("the checkpoint holds {} tensor{} that this run does not have, such as {}", left.size(),
                               left.size() == 1 ? "" : "s", *left.begin()),
                   folder.string(),
                   {},
                   "resume with the model that wrote it"});
}

std::vector<int64_t> CheckpointStore::list(const fs::path& directory) {
  std::vector<int64_t> steps;
  for (const fs::path& folder : checkpoint_folders(directory)) {
    if (is_complete(folder)) steps.push_back(*step_of(folder));
  }
  return steps;
}

}  // namespace tessera
