#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace tessera {

/// A whole file mapped read-only; closed on destruction.
class MappedFile {
 public:
  /// Throws DataError when the file is missing, unreadable or empty.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  /// A field of a file's header: little endian, not aligned. The caller has checked that it lies within the file.
  template <class T>
  T load(int64_t at_bytes) const {
    T value;
    std::memcpy(&value, data_ + at_bytes, sizeof(T));
    return value;
  }
  /// Throws DataError about this file.
  [[noreturn]] void refuse(const std::string& what, const std::string& legal, const std::string& hint = {}) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Tokens as they lie in a mapped file: uint16 (narrow) or int32.
struct MappedTokens {
  const std::byte* data = nullptr;
  int64_t count = 0;
  bool narrow = true;

  int64_t at(int64_t position) const;
  /// Tokens [position, position + out.size()); InternalError outside [0, count).
  void read(int64_t position, std::span<int32_t> out) const;
  /// The first position whose id is outside [0, vocabulary), or `count`: one pass at the speed of the disk or the page cache.
  int64_t first_beyond(int64_t vocabulary) const;
};

}  // namespace tessera
