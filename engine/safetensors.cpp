#include "engine/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"

namespace tessera {

static_assert(std::endian::native == std::endian::little, "numbers go to the disk as they stand in memory");

using Json = nlohmann::json;

constexpr int64_t length_bytes = 8;
constexpr int64_t most_header_bytes = 100'000'000;  // the limit of the format's own library

constexpr std::pair<std::string_view, int64_t> element_bytes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
    {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8},
};

std::optional<DType> safetensors_dtype(std::string_view name) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::u8}) {
    if (name == safetensors_name(dtype)) return dtype;
  }
  return {};
}

int64_t safetensors_element_bytes(std::string_view dtype) {
  const auto* found = std::ranges::find(element_bytes, dtype, &std::pair<std::string_view, int64_t>::first);
  return found == std::end(element_bytes) ? 0 : found->second;
}

const char* safetensors_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::f64:
      return "F64";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
  }
  return "?";
}

/// Bytes of a tensor's data; -1 when that overflows.
static int64_t data_bytes(const SafetensorsTensor& tensor) {
  int64_t bytes = safetensors_element_bytes(tensor.dtype);
  for (int64_t extent : tensor.shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return -1;
  }
  return bytes;
}

int64_t SafetensorsTensor::bytes() const { return data_bytes(*this); }

// ---- writing

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors) : file_(path.string()) {
  Json header = Json::object();  // sorted by name; the data stands in the order of `tensors`
  int64_t offset = 0;
  for (SafetensorsTensor& tensor : tensors) {
    invariant(safetensors_element_bytes(tensor.dtype) > 0 && tensor.bytes() >= 0, "a safetensors file holds known dtypes and sizes only");
    if (header.contains(tensor.name)) throw InternalError("the tensor " + tensor.name + " stands twice in " + path.string());
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  const uint64_t length = text.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(text);
  expected_bytes_ = file_.bytes() + offset;
}

void SafetensorsWriter::finish() {
  invariant(file_.bytes() == expected_bytes_, "a safetensors file got more or less data than its header says");
  file_.finish();
}

// ---- reading

static DataError foreign(const std::filesystem::path& path, const std::string& what) {
  return DataError({what, path.string(), "a whole safetensors file", {}});
}

static DataError unreadable(const std::filesystem::path& path) {
  return DataError({std::string("cannot read the file: ") + std::strerror(errno), path.string(), {}, {}});
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  handle_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (handle_ < 0) throw unreadable(path_);
  try {
    struct stat status {};
    if (::fstat(handle_, &status) != 0) throw unreadable(path_);
    if (!S_ISREG(status.st_mode)) throw foreign(path_, "this is no file");
    bytes_ = status.st_size;
    if (bytes_ < length_bytes) throw foreign(path_, fmt::format("the file ends after {} bytes, within the length of its header", bytes_));
    uint64_t length = 0;
    read_at(0, std::as_writable_bytes(std::span(&length, 1)));
    if (length > most_header_bytes) throw foreign(path_, fmt::format("a header of {} bytes: this is no safetensors file", length));
    data_begin_ = length_bytes + static_cast<int64_t>(length);
    if (data_begin_ > bytes_) throw foreign(path_, fmt::format("the file ends after {} bytes, within its header of {}", bytes_, length));
    std::string header(length, ' ');
    read_at(length_bytes, std::as_writable_bytes(std::span(header)));
    parse_header(header);
    check_offsets();
  } catch (...) {
    ::close(handle_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { ::close(handle_); }

/// A number of the header that is an integer of at least 0.
static bool is_size(const Json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

void SafetensorsFile::parse_header(const std::string& text) {
  const Json header = Json::parse(text, nullptr, false);
  if (!header.is_object()) throw foreign(path_, "the header is no JSON object: this is no safetensors file");
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto refuse = [&, &tensor_name = name](const std::string& why) { return foreign(path_, "tensor " + tensor_name + ": " + why); };
    if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
      throw refuse("the header lacks its dtype, shape or data_offsets");
    }
    const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
    if (!dtype.is_string() || safetensors_element_bytes(dtype.get<std::string>()) == 0) throw refuse("unknown dtype " + dtype.dump());
    if (!shape.is_array() || !std::ranges::all_of(shape, is_size)) throw refuse("the shape " + shape.dump() + " is no list of sizes");
    if (!offsets.is_array() || offsets.size() != 2 || !std::ranges::all_of(offsets, is_size)) {
      throw refuse("the data_offsets " + offsets.dump() + " are no two offsets");
    }
    SafetensorsTensor tensor{name, dtype.get<std::string>(), shape.get<std::vector<int64_t>>(), offsets[0].get<int64_t>()};
    const int64_t bytes = tensor.bytes(), stated = offsets[1].get<int64_t>() - tensor.offset;
    if (bytes != stated)
      throw refuse(
          fmt::format("data_offsets {} are {} bytes, but {} {} takes {}", offsets.dump(), stated, tensor.dtype, shape.dump(), bytes));
    tensors_.push_back(std::move(tensor));
  }
  // Empty tensors stand where the next begins.
  std::ranges::sort(tensors_, {}, [](const SafetensorsTensor& tensor) { return std::pair(tensor.offset, tensor.bytes()); });
  for (size_t i = 0; i < tensors_.size(); i++) index_[tensors_[i].name] = i;
}

void SafetensorsFile::check_offsets() const {
  int64_t end = 0;
  for (const SafetensorsTensor& tensor : tensors_) {
    if (tensor.offset != end) {
      throw foreign(path_, fmt::format("tensor {} begins at byte {} of the data, {} its predecessor, which ends at {}", tensor.name,
                                       tensor.offset, tensor.offset < end ? "within" : "behind a gap after", end));
    }
    end += tensor.bytes();
  }
  const int64_t data = bytes_ - data_begin_;
  if (data == end) return;
  throw foreign(
      path_, fmt::format("the file is {}: {} bytes of data where its header states {}", data < end ? "truncated" : "too long", data, end));
}

const SafetensorsTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void SafetensorsFile::read(const SafetensorsTensor& tensor, int64_t offset, std::span<std::byte> out) const {
  const auto count = static_cast<int64_t>(out.size());
  invariant(offset >= 0 && count <= tensor.bytes() && offset <= tensor.bytes() - count, "read outside a tensor's data");
  read_at(data_begin_ + tensor.offset + offset, out);
}

void SafetensorsFile::read_at(int64_t position, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = ::pread(handle_, out.data(), out.size(), position);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw unreadable(path_);
    if (count == 0) throw foreign(path_, fmt::format("the file ends at byte {}: it became shorter while it was read", position));
    out = out.subspan(static_cast<size_t>(count));
    position += count;
  }
}

}  // namespace tessera
