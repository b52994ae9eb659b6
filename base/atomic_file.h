#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

/// A file that stands under its name only when whole: written as PATH.partial, synced, then renamed.
/// A full disk or a kill leaves what stood under PATH before. Throws DataError naming the file and the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  /// Removes the partial file unless published.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Everything written is on the disk, under the partial name.
  void finish();
  /// After finish(): renames, and syncs the folder.
  void publish();

  int64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  void flush();
  [[noreturn]] void fail(const char* doing) const;

  std::string path_, partial_path_;
  std::vector<std::byte> buffer_;
  int64_t bytes_ = 0;
  int file_ = -1;
  bool published_ = false;
};

/// The whole file at once: readers see what stood there before or `text`, also after a crash or on a full disk.
void write_text_atomically(const std::filesystem::path& path, std::string_view text);

/// Files created, renamed or removed in the folder are so on the disk, too. Where the system cannot promise that, nothing happens.
void sync_folder(const std::filesystem::path& folder);

}  // namespace tessera
