#include "engine/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "base/error.h"
#include "engine/safetensors.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct NamedTensor {
  std::string name;
  DType dtype;
  Shape shape;
};
const std::vector<NamedTensor> model = {{"weight/bias", DType::f32, {37}},         {"weight/matrix", DType::f32, {9, 14}},
                                        {"weight/half", DType::bf16, {5, 7}},      {"m/matrix", DType::f32, {9, 14}},
                                        {"weight/experts", DType::f32, {3, 4, 5}}, {"weight/scalar", DType::f32, {}}};

/// A rank's part of one tensor of the model, with memory of its own.
struct Part {
  size_t tensor;
  int64_t begin, end;
};
using Layout = std::vector<std::vector<Part>>;  // by rank

int64_t elements_of_model() {
  int64_t sum = 0;
  for (const NamedTensor& tensor : model) sum += tensor.shape.elements();
  return sum;
}

/// The model's tensors laid end to end and cut at these positions: rank r has the elements between cuts r and r + 1.
Layout cut_at(const std::vector<int64_t>& cuts) {
  Layout layout(cuts.size() - 1);
  for (size_t rank = 0; rank < layout.size(); rank++) {
    int64_t first = 0;
    for (size_t t = 0; t < model.size(); t++) {
      const int64_t elements = model[t].shape.elements();
      const int64_t begin = std::clamp<int64_t>(cuts[rank] - first, 0, elements),
                    end = std::clamp<int64_t>(cuts[rank + 1] - first, 0, elements);
      if (begin < end) layout[rank].push_back({t, begin, end});
      first += elements;
    }
  }
  return layout;
}

/// Every tensor cut in `ranks` nearly equal parts, the way ZeRO cuts a bucket.
Layout shards(int ranks) {
  Layout layout(ranks);
  for (size_t t = 0; t < model.size(); t++) {
    const int64_t elements = model[t].shape.elements();
    for (int rank = 0; rank < ranks; rank++) layout[rank].push_back({t, elements * rank / ranks, elements * (rank + 1) / ranks});
  }
  return layout;
}

/// Whole tensors in turn, the way a pipeline places them.
Layout stages(int ranks) {
  Layout layout(ranks);
  for (size_t t = 0; t < model.size(); t++) layout[t % ranks].push_back({t, 0, model[t].shape.elements()});
  return layout;
}

std::vector<Layout> layouts() {
  const int64_t n = elements_of_model();
  return {shards(1), shards(2), shards(4), stages(2), stages(4), cut_at({0, 37 + 14 * 3 + 5, n}), cut_at({0, 1, 1, n - 30, n})};
}

/// What every rank needs to run the model undivided.
Layout everything(int ranks) { return Layout(ranks, shards(1)[0]); }

/// The bytes that tensor `t` has everywhere: no two places alike by construction of a short period.
uint8_t byte_of(size_t t, int64_t i) {
  uint64_t x = (t + 1) * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(i) * 0xbf58476d1ce4e5b9u;
  x ^= x >> 31;
  return static_cast<uint8_t>((x * 0x94d049bb133111ebu) >> 56);
}

/// The memory of one rank and the ranges that point into it.
class RankMemory {
 public:
  explicit RankMemory(const std::vector<Part>& parts) : parts_(parts) {
    for (const auto& [t, begin, end] : parts) {
      const NamedTensor& tensor = model[t];
      memory_.emplace_back((end - begin) * bytes_of(tensor.dtype), 0xaa);
      ranges_.push_back({tensor.name, tensor.shape, begin, end, Tensor(memory_.back().data(), tensor.dtype, {end - begin})});
    }
  }
  RankMemory filled() && {
    for_each_byte([](uint8_t& byte, uint8_t right) { byte = right; });
    return std::move(*this);
  }
  int64_t wrong_bytes() {
    int64_t wrong = 0;
    for_each_byte([&](uint8_t& byte, uint8_t right) { wrong += byte != right; });
    return wrong;
  }
  std::vector<CheckpointRange>& ranges() { return ranges_; }

 private:
  template <class Visit>
  void for_each_byte(Visit&& visit) {
    for (size_t p = 0; p < parts_.size(); p++) {
      const int64_t first = parts_[p].begin * bytes_of(model[parts_[p].tensor].dtype);
      for (size_t i = 0; i < memory_[p].size(); i++) visit(memory_[p][i], byte_of(parts_[p].tensor, first + static_cast<int64_t>(i)));
    }
  }

  std::vector<Part> parts_;
  std::vector<std::vector<uint8_t>> memory_;
  std::vector<CheckpointRange> ranges_;
};

class CheckpointFolder : public testing::Test {
 protected:
  CheckpointFolder() {
    std::string name = (fs::temp_directory_path() / "tessera_checkpoint_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    checkpoints_ = folder_ / "run" / "checkpoints";
    log_ = std::tmpfile();
  }
  ~CheckpointFolder() override {
    std::fclose(log_);
    fs::remove_all(folder_);
  }

  /// Saves the model's tensors from this layout.
  void save(const Layout& layout, int64_t step, int64_t keep = 10) {
    run_thread_ranks(static_cast<int>(layout.size()), [&](HostGroup& host) {
      const auto device = Device::cpu(1);
      RankMemory memory = RankMemory(layout[host.rank()]).filled();
      CheckpointStore(checkpoints_, keep, host, nullptr).save({.step = step}, memory.ranges(), *device);
    });
  }
  /// How many bytes are wrong on all ranks after loading into this layout.
  int64_t wrong_bytes_after_load(const Layout& layout, int64_t step, LoadWhat what = LoadWhat::Some) {
    std::mutex mutex;
    int64_t wrong = 0;
    run_thread_ranks(static_cast<int>(layout.size()), [&](HostGroup& host) {
      const auto device = Device::cpu(1);
      RankMemory memory(layout[host.rank()]);
      CheckpointStore(checkpoints_, 1, host, nullptr).load(step, memory.ranges(), *device, what);
      const std::lock_guard lock(mutex);
      wrong += memory.wrong_bytes();
    });
    return wrong;
  }
  /// The newest step on `ranks` ranks, 0 for none; the notices go to notices().
  int64_t newest(int ranks = 1) {
    std::mutex mutex;
    std::set<int64_t> steps;
    Messages messages({.file = log_});
    run_thread_ranks(ranks, [&](HostGroup& host) {
      const auto state = CheckpointStore(checkpoints_, 1, host, &messages).newest();
      const std::lock_guard lock(mutex);
      steps.insert(state ? state->step : 0);
    });
    EXPECT_EQ(steps.size(), 1u) << "ranks disagree on the newest checkpoint";
    return *steps.begin();
  }
  std::string notices() {
    std::rewind(log_);
    std::string text;
    for (int c; (c = std::fgetc(log_)) != EOF;) text += static_cast<char>(c);
    return text;
  }
  std::vector<int64_t> steps() { return CheckpointStore::list(checkpoints_); }
  fs::path file(const std::string& step, const std::string& name) { return checkpoints_ / step / name; }

  static std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void put(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
  static void flip_byte(const fs::path& path, int64_t from_end) {
    std::string bytes = content(path);
    bytes[bytes.size() - static_cast<size_t>(from_end)] ^= 1;
    put(path, bytes);
  }

  /// What `body(host)` throws on each of `ranks` ranks, all of which must throw an E.
  template <class E, class Body>
  std::set<std::string> errors_on_all(int ranks, Body&& body) {
    std::mutex mutex;
    std::set<std::string> texts;
    int thrown = 0;
    run_thread_ranks(ranks, [&](HostGroup& host) {
      try {
        body(host);
      } catch (const E& error) {
        const std::lock_guard lock(mutex);
        texts.insert(error.what());
        thrown++;
      }
    });
    EXPECT_EQ(thrown, ranks);
    return texts;
  }

  fs::path folder_, checkpoints_;
  std::FILE* log_;
};

using CheckpointRanks = CheckpointFolder;
using Checkpoint = CheckpointFolder;

// ---- any layout loads any checkpoint

TEST_F(CheckpointRanks, WhatAnyLayoutSavesAnyOtherLoadsBitForBit) {
  int64_t step = 0;
  for (const Layout& from : layouts()) {
    save(from, ++step);
    ASSERT_EQ(newest(static_cast<int>(from.size())), step);
    for (const Layout& to : layouts()) EXPECT_EQ(wrong_bytes_after_load(to, step), 0) << "saved as layout " << step;
    EXPECT_EQ(wrong_bytes_after_load(everything(3), step), 0) << "saved as layout " << step;
  }
}

TEST_F(CheckpointRanks, ANewestCheckpointIsFoundByMoreOrFewerRanksThanWroteIt) {
  save(shards(4), 5);
  for (int ranks : {1, 2, 3, 4, 7}) EXPECT_EQ(newest(ranks), 5);
}

TEST_F(Checkpoint, ATensorLargerThanTheBufferSurvivesASaveAndALoad) {
  const int64_t elements = (5 << 20) / 4 + 3;  // the copies go in pieces of 4 MiB
  std::vector<uint32_t> saved(elements), loaded(elements);
  std::iota(saved.begin(), saved.end(), 1u);
  const auto host = make_self_group();
  const auto device = Device::cpu(1);
  CheckpointStore store(checkpoints_, 1, *host, nullptr);
  store.save({.step = 1}, {{"x", {elements}, 0, elements, Tensor(saved.data(), DType::f32, {elements})}}, *device);
  ASSERT_TRUE(store.newest().has_value());
  store.load(1, {{"x", {elements}, 1, elements, Tensor(loaded.data(), DType::f32, {elements - 1})}}, *device);
  saved.erase(saved.begin());
  loaded.pop_back();
  EXPECT_EQ(loaded, saved);
}

TEST_F(Checkpoint, TheStateComesBackToTheLastBit) {
  const CheckpointState saved = {.step = 123456789,
                                 .applied_steps = 7,
                                 .skipped_in_a_row = 3,
                                 .seed = -5,
                                 .samples = int64_t{1} << 60,
                                 .loss_scale = 0.1,
                                 .config = "[train]\nname = \"gr\xc3\xbc\xc3\x9f \\ dich\"\n",
                                 .data = "5 tokens"};
  const auto host = make_self_group();
  const auto device = Device::cpu(1);
  RankMemory memory = RankMemory(shards(1)[0]).filled();
  CheckpointStore store(checkpoints_, 1, *host, nullptr);
  store.save(saved, memory.ranges(), *device);
  const auto loaded = store.newest();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->step, saved.step);
  EXPECT_EQ(loaded->applied_steps, saved.applied_steps);
  EXPECT_EQ(loaded->skipped_in_a_row, saved.skipped_in_a_row);
  EXPECT_EQ(loaded->seed, saved.seed);
  EXPECT_EQ(loaded->samples, saved.samples);
  EXPECT_EQ(loaded->data, saved.data);
  EXPECT_EQ(loaded->loss_scale, saved.loss_scale);
  EXPECT_EQ(loaded->config, saved.config);
}

TEST_F(CheckpointRanks, FilesAreSafetensorsWhoseEntriesNameTheirBox) {
  save(cut_at({0, 37 + 14 * 2 + 3, elements_of_model()}), 8);
  const SafetensorsFile first(file("00000008", "rank-00000.safetensors")), second(file("00000008", "rank-00001.safetensors"));
  std::set<std::string> names;
  for (const SafetensorsTensor& tensor : first.tensors()) names.insert(tensor.name);
  EXPECT_EQ(names, (std::set<std::string>{"weight/bias", "weight/matrix@0:2,0:14", "weight/matrix@2:3,0:3"}));
  ASSERT_NE(second.find("weight/matrix@2:3,3:14"), nullptr);
  ASSERT_NE(second.find("weight/matrix@3:9,0:14"), nullptr);
  EXPECT_EQ(second.find("weight/matrix@3:9,0:14")->shape, (std::vector<int64_t>{6, 14}));
  EXPECT_EQ(second.find("weight/half")->dtype, "BF16");
  for (const SafetensorsTensor& tensor : second.tensors()) {
    EXPECT_EQ(tensor.offset % safetensors_element_bytes(tensor.dtype), 0) << tensor.name << " is not aligned";
  }
}

TEST_F(Checkpoint, ANullDeviceWritesAndReadsNothing) {
  const auto host = make_null_group(3, 8);
  const auto device = Device::null({.kind = DeviceKind::Cpu});
  RankMemory memory(shards(1)[0]);
  CheckpointStore store(checkpoints_, 1, *host, nullptr);
  store.save({.step = 1}, memory.ranges(), *device);
  store.load(1, memory.ranges(), *device);
  EXPECT_FALSE(fs::exists(checkpoints_));
}

// ---- which checkpoints stay

TEST_F(Checkpoint, ARunWithoutCheckpointsHasNoNewest) {
  EXPECT_EQ(newest(), 0);
  fs::create_directories(checkpoints_);
  EXPECT_EQ(newest(2), 0);
  EXPECT_EQ(notices(), "");
}

TEST_F(CheckpointRanks, OnlyTheNewestAreKept) {
  for (int64_t step : {10, 20, 30, 100000000}) save(shards(2), step, 2);
  EXPECT_EQ(steps(), (std::vector<int64_t>{30, 100000000}));
  EXPECT_EQ(std::distance(fs::directory_iterator(checkpoints_), fs::directory_iterator()), 2);
}

TEST_F(CheckpointRanks, SavingTheSameStepAgainReplacesIt) {
  save(shards(4), 10);
  save(shards(2), 10);
  EXPECT_EQ(steps(), std::vector<int64_t>{10});
  EXPECT_FALSE(fs::exists(file("00000010", "rank-00002.safetensors")));
  EXPECT_EQ(wrong_bytes_after_load(everything(1), 10), 0);
}

TEST_F(Checkpoint, LaterStepsGoWhenAnEarlierOneIsSaved) {
  for (int64_t step : {10, 20, 30}) save(shards(1), step);
  flip_byte(file("00000030", "rank-00000.safetensors"), 1);
  ASSERT_EQ(newest(), 20);
  save(shards(1), 25, 2);
  EXPECT_EQ(steps(), (std::vector<int64_t>{20, 25}));
}

TEST_F(Checkpoint, ForeignFilesBesideTheCheckpointsStay) {
  fs::create_directories(checkpoints_ / "best");
  fs::create_directories(checkpoints_ / "120");  // not as we write a step
  put(checkpoints_ / "00000001", "a file");
  save(shards(1), 2, 1);
  save(shards(1), 3, 1);
  EXPECT_EQ(steps(), std::vector<int64_t>{3});
  for (const char* name : {"best", "120", "00000001"}) EXPECT_TRUE(fs::exists(checkpoints_ / name)) << name;
}

// ---- a kill at any point

TEST_F(CheckpointRanks, WhateverAKillLeavesOlderCheckpointsLoadAndTheNextSaveCleansUp) {
  save(shards(2), 10);
  save(shards(2), 20);
  const std::string first = content(file("00000020", "rank-00000.safetensors")), manifest = content(file("00000020", "manifest.json"));
  fs::remove_all(checkpoints_ / "00000020");
  // The files that stand in the folder at a kill: of a save in progress, or of a removal, which takes the manifest first.
  const std::vector<std::map<std::string, std::string>> leftovers = {
      {},
      {{"rank-00000.safetensors.partial", first.substr(0, 50)}},
      {{"rank-00000.safetensors", first}, {"rank-00001.safetensors.partial", ""}},
      {{"rank-00000.safetensors", first}, {"rank-00001.safetensors", first}},
      {{"rank-00000.safetensors", first}, {"rank-00001.safetensors", first}, {"manifest.json.partial", manifest}},
      {{"rank-00001.safetensors", first}},
  };
  int64_t next = 30, named = 0;
  for (const auto& files : leftovers) {
    fs::create_directory(checkpoints_ / "00000020");
    for (const auto& [name, bytes] : files) put(file("00000020", name), bytes);
    const int64_t last = steps().back();
    EXPECT_NE(last, 20);
    EXPECT_EQ(newest(2), last);
    EXPECT_EQ(std::ranges::count(notices(), '\n'), ++named) << notices();
    EXPECT_EQ(wrong_bytes_after_load(shards(4), last), 0);
    save(shards(2), next);
    EXPECT_FALSE(fs::exists(checkpoints_ / "00000020"));
    EXPECT_EQ(newest(2), next);
    next += 10;
  }
}

// ---- damage

TEST_F(CheckpointRanks, ADamagedNewestIsPassedOverWithANoticeThatNamesFileAndTensor) {
  save(shards(2), 10);
  save(shards(2), 20);
  flip_byte(file("00000020", "rank-00001.safetensors"), 1);  // the last element: of the narrowest dtype
  EXPECT_EQ(newest(2), 10);
  const std::string text = notices();
  EXPECT_NE(text.find("step 20"), std::string::npos) << text;
  EXPECT_NE(text.find("rank-00001.safetensors"), std::string::npos) << text;
  EXPECT_NE(text.find("weight/half@"), std::string::npos) << text;
  EXPECT_EQ(std::ranges::count(text, '\n'), 1) << "one rank speaks:\n" << text;
}

TEST_F(CheckpointRanks, EveryKindOfDamageIsFound) {
  save(stages(2), 10);
  save(stages(2), 20);
  const fs::path data = file("00000020", "rank-00001.safetensors"), manifest = file("00000020", "manifest.json");
  const std::string good_data = content(data), good_manifest = content(manifest);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good_manifest;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const std::vector<std::pair<std::string, std::function<void()>>> damages = {
      {"missing file", [&] { fs::remove(data); }},
      {"empty file", [&] { put(data, ""); }},
      {"truncated file", [&] { put(data, good_data.substr(0, good_data.size() - 1)); }},
      {"longer file", [&] { put(data, good_data + "x"); }},
      {"file of another rank", [&] { put(data, content(file("00000020", "rank-00000.safetensors"))); }},
      {"first byte of the data",
       [&] {
         flip_byte(data, static_cast<int64_t>(good_data.size()) - 8 - static_cast<uint8_t>(good_data[0]) -
                             256 * static_cast<uint8_t>(good_data[1]));
       }},
      {"name in the header", [&] { flip_byte(data, static_cast<int64_t>(good_data.size()) - 10); }},
      {"another dtype of the same size", [&] { put(data, std::string(good_data).replace(good_data.find("F32"), 3, "I32")); }},
      {"manifest cut short", [&] { put(manifest, good_manifest.substr(0, good_manifest.size() / 2)); }},
      {"empty manifest", [&] { put(manifest, ""); }},
      {"foreign manifest", [&] { put(manifest, "{\"format\": \"other\"}"); }},
      {"another position", [&] { put(manifest, replaced("\"samples\": 0", "\"samples\": 1")); }},
      {"another step", [&] { put(manifest, content(file("00000010", "manifest.json"))); }},
  };
  for (const auto& [name, damage] : damages) {
    damage();
    for (int ranks : {1, 2}) EXPECT_EQ(newest(ranks), 10) << name;
    put(data, good_data);
    put(manifest, good_manifest);
    ASSERT_EQ(newest(), 20);
  }
}

TEST_F(CheckpointRanks, WhenAllAreDamagedEveryRankSaysWhichAndWhy) {
  save(shards(2), 10);
  save(shards(2), 20);
  fs::remove(file("00000010", "rank-00000.safetensors"));
  flip_byte(file("00000020", "rank-00001.safetensors"), 1);
  const auto texts = errors_on_all<DataError>(3, [&](HostGroup& host) { CheckpointStore(checkpoints_, 1, host, nullptr).newest(); });
  ASSERT_EQ(texts.size(), 1u);
  EXPECT_NE(texts.begin()->find("00000010/rank-00000.safetensors"), std::string::npos) << *texts.begin();
  EXPECT_NE(texts.begin()->find("00000020/rank-00001.safetensors"), std::string::npos) << *texts.begin();
}

// ---- errors of one rank

TEST_F(CheckpointRanks, AFullDiskOnOneRankIsTheSameErrorOnAllAndTheOldCheckpointSurvives) {
  save(shards(4), 10);
  const Layout layout = cut_at({0, 1, elements_of_model() - 2, elements_of_model() - 1, elements_of_model()});  // rank 1 has nearly all
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{1000, old_limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto texts = errors_on_all<DataError>(4, [&](HostGroup& host) {
    const auto device = Device::cpu(1);
    RankMemory memory = RankMemory(layout[host.rank()]).filled();
    CheckpointStore(checkpoints_, 1, host, nullptr).save({.step = 20}, memory.ranges(), *device);
  });
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  ASSERT_EQ(texts.size(), 1u);
  EXPECT_NE(texts.begin()->find("rank 1"), std::string::npos) << *texts.begin();
  EXPECT_NE(texts.begin()->find("rank-00001.safetensors"), std::string::npos) << *texts.begin();
  EXPECT_FALSE(fs::exists(checkpoints_ / "00000020"));
  EXPECT_EQ(newest(4), 10);
  EXPECT_EQ(wrong_bytes_after_load(everything(1), 10), 0);
}

TEST_F(CheckpointRanks, AFolderThatCannotBeMadeIsADataErrorOnEveryRank) {
  fs::create_directories(checkpoints_.parent_path());
  put(checkpoints_, "a file where the folder should be");
  const auto texts = errors_on_all<DataError>(2, [&](HostGroup& host) {
    const auto device = Device::cpu(1);
    RankMemory memory(shards(2)[host.rank()]);
    CheckpointStore(checkpoints_, 1, host, nullptr).save({.step = 20}, memory.ranges(), *device);
  });
  EXPECT_EQ(texts.size(), 1u);
}

TEST_F(CheckpointRanks, ElementsSavedTwiceOrNeverAreRefusedAndLeaveNoCheckpoint) {
  save(shards(2), 10);
  Layout twice = shards(2), never = shards(2), shifted = shards(2);
  twice[1].push_back({1, 3, 5});
  never[1].erase(never[1].begin() + 4);
  shifted[1][1].begin--, shifted[1][1].end--;  // one element twice, another never: the sum is right
  for (const Layout& layout : {twice, never, shifted}) {
    const auto texts = errors_on_all<InternalError>(2, [&](HostGroup& host) {
      const auto device = Device::cpu(1);
      RankMemory memory(layout[host.rank()]);
      CheckpointStore(checkpoints_, 1, host, nullptr).save({.step = 20}, memory.ranges(), *device);
    });
    EXPECT_EQ(texts.size(), 1u);
    EXPECT_FALSE(fs::exists(checkpoints_ / "00000020"));
    EXPECT_EQ(newest(), 10);
  }
}

TEST_F(CheckpointRanks, LoadingWhatTheCheckpointLacksIsADataErrorOnEveryRankThatNamesTheTensor) {
  save(shards(2), 10);
  const auto error_of = [&](const std::function<void(CheckpointRange&)>& change) {
    const auto texts = errors_on_all<DataError>(3, [&](HostGroup& host) {
      const auto device = Device::cpu(1);
      RankMemory memory(shards(1)[0]);
      if (host.rank() == 2) change(memory.ranges()[1]);
      CheckpointStore(checkpoints_, 1, host, nullptr).load(10, memory.ranges(), *device);
    });
    EXPECT_EQ(texts.size(), 1u);
    return *texts.begin();
  };
  EXPECT_NE(error_of([](CheckpointRange& range) { range.name = "weight/other"; }).find("weight/other"), std::string::npos);
  const std::string shape = error_of([](CheckpointRange& range) { range.shape = {14, 9}; });
  EXPECT_NE(shape.find("weight/matrix is F32 [9,14] in the checkpoint, but F32 [14,9] in this run"), std::string::npos) << shape;
  const std::string dtype = error_of([](CheckpointRange& range) { range.data.dtype = DType::i32; });
  EXPECT_NE(dtype.find("weight/matrix is F32 [9,14] in the checkpoint, but I32"), std::string::npos) << dtype;
}

TEST_F(CheckpointRanks, TensorsOfTheCheckpointThatNoRankAsksForAreRefusedWhereAllOfItIsWanted) {
  save(shards(2), 10);
  const auto texts = errors_on_all<DataError>(2, [&](HostGroup& host) {
    const auto device = Device::cpu(1);
    RankMemory memory(shards(2)[host.rank()]);
    std::vector<CheckpointRange> ranges = memory.ranges();
    std::erase_if(ranges, [](const CheckpointRange& range) { return range.name == "weight/matrix"; });
    CheckpointStore(checkpoints_, 1, host, nullptr).load(10, ranges, *device, LoadWhat::Whole);
  });
  ASSERT_EQ(texts.size(), 1u);
  EXPECT_NE(texts.begin()->find("1 tensor that this run does not have, such as weight/matrix"), std::string::npos) << *texts.begin();
}

TEST_F(CheckpointRanks, TensorsAskedForByAnyRankAreAskedFor) {
  save(shards(2), 10);
  EXPECT_EQ(wrong_bytes_after_load(shards(2), 10, LoadWhat::Whole), 0);
}

TEST_F(Checkpoint, AFolderWithoutItsManifestIsNamed) {
  save(shards(1), 10);
  save(shards(1), 20);
  fs::remove(checkpoints_ / "00000020" / "manifest.json");
  EXPECT_EQ(newest(), 10);
  EXPECT_NE(notices().find("00000020 has no manifest.json"), std::string::npos) << notices();
}

TEST_F(Checkpoint, LoadingAStepThatIsNotThereIsADataError) {
  save(shards(1), 10);
  EXPECT_THROW(wrong_bytes_after_load(shards(2), 11), DataError);
}

}  // namespace
}  // namespace tessera
