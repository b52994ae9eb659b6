#include "tokenizer/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "base/error.h"

namespace tessera {

static_assert(std::endian::native == std::endian::little, "token files are little endian, and used as they lie in memory");

constexpr const char* legal_files = "Megatron's PREFIX.bin with PREFIX.idx, given as PREFIX, or a .bin of llm.c or nanoGPT";

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || ::fstat(file, &status) != 0) {
    const int reason = errno;
    if (file >= 0) ::close(file);
    throw DataError({fmt::format("cannot read {}: {}", path, std::strerror(reason)), path, legal_files,
                     "`tessera tokenize encode` writes token files"});
  }
  bytes_ = status.st_size;
  void* data =
      bytes_ > 0 && S_ISREG(status.st_mode) ? ::mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  ::close(file);
  if (data == MAP_FAILED) throw DataError({path + (bytes_ == 0 ? " is empty" : " cannot be mapped"), path, legal_files, {}});
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(bytes_));
}

void MappedFile::refuse(const std::string& what, const std::string& legal, const std::string& hint) const {
  throw DataError({path_ + ": " + what, path_, legal, hint});
}

int64_t MappedTokens::at(int64_t position) const {
  return narrow ? reinterpret_cast<const uint16_t*>(data)[position] : reinterpret_cast<const int32_t*>(data)[position];
}

void MappedTokens::read(int64_t position, std::span<int32_t> out) const {
  const auto size = static_cast<int64_t>(out.size());
  invariant(position >= 0 && position <= count - size, "tokens are read beyond the end of the file");
  if (narrow) {
    const auto* from = reinterpret_cast<const uint16_t*>(data) + position;
    std::copy(from, from + size, out.begin());
  } else {
    std::memcpy(out.data(), data + 4 * position, out.size_bytes());
  }
}

int64_t MappedTokens::first_beyond(int64_t vocabulary) const {
  const auto* narrow_ids = reinterpret_cast<const uint16_t*>(data);
  const auto* wide_ids = reinterpret_cast<const uint32_t*>(data);  // negative ids turn into huge ones
  constexpr int64_t block = 1 << 16;
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t end = std::min(begin + block, count);
    uint32_t largest = 0;  // without an early exit, so that the loop vectorizes
    if (narrow) {
      for (int64_t i = begin; i < end; i++) largest = std::max<uint32_t>(largest, narrow_ids[i]);
    } else {
      for (int64_t i = begin; i < end; i++) largest = std::max(largest, wide_ids[i]);
    }
    if (largest < vocabulary) continue;
    for (int64_t i = begin; i < end; i++) {
      if (at(i) < 0 || at(i) >= vocabulary) return i;
    }
  }
  return count;
}

}  // namespace tessera
