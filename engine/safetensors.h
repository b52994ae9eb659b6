#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_file.h"
#include "base/dtype.h"

namespace tessera {

/// Tensors on disk, readable by every tool that knows the format (https://github.com/huggingface/safetensors):
///     uint64 bytes of the header, little endian | header: JSON, padded with spaces | data: row-major, little endian, without gaps
///     {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}     offsets from the end of the header

struct SafetensorsTensor {
  std::string name;
  std::string dtype;  // "F32", "BF16", "I64", ...
  std::vector<int64_t> shape;
  int64_t offset = 0;  // of the first byte, from the end of the header; the writer sets it

  /// Of the data.
  int64_t bytes() const;
};

/// "F32", "BF16", "F16", "F64", "I32", "U8".
const char* safetensors_name(DType dtype);
/// The type of that name; no value for one that Tessera has not.
std::optional<DType> safetensors_dtype(std::string_view name);
/// Bytes of one element; 0 for a name that the format does not know.
int64_t safetensors_element_bytes(std::string_view dtype);

/// Writes a file as a stream; it stands under its name at publish().
class SafetensorsWriter {
 public:
  /// The header. InternalError when a name stands twice or a dtype is unknown; DataError, here and below, when the disk refuses.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors);

  /// The data of all tensors, one behind the other, in pieces of any size.
  void write(std::span<const std::byte> data) { file_.write(data); }
  /// Everything is on the disk. InternalError unless all the data was written, and no more.
  void finish();
  void publish() { file_.publish(); }
  int64_t bytes() const { return file_.bytes(); }

 private:
  AtomicFile file_;
  int64_t expected_bytes_ = 0;
};

/// Reads a file of any origin. Holds its header only.
class SafetensorsFile {
 public:
  /// Checks everything before the first element is used: sizes, names, dtypes, shapes, and that the tensors fill the data without gap or
  /// overlap. DataError naming the file, the tensor and what is legal.
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  /// In the order of their data.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  /// nullptr when there is none of that name.
  const SafetensorsTensor* find(const std::string& name) const;
  int64_t bytes() const { return bytes_; }

  /// Bytes [offset, offset + out.size()) of a tensor's data. InternalError outside of it, DataError when the disk fails.
  void read(const SafetensorsTensor& tensor, int64_t offset, std::span<std::byte> out) const;

 private:
  void read_at(int64_t position, std::span<std::byte> out) const;
  void parse_header(const std::string& header);
  void check_offsets() const;

  std::filesystem::path path_;
  int handle_ = -1;
  int64_t bytes_ = 0, data_begin_ = 0;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, size_t> index_;
};

}  // namespace tessera
