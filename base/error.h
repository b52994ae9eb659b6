#pragma once
#include <stdexcept>
#include <string>

namespace tessera {

/// What every error says: what is wrong, where, what would be legal, what to try. Empty parts are left out.
struct ErrorText {
  std::string what, where, legal, hint;
};

/// The base of the five kinds. what() is the whole text over several lines, without the leading "error: ".
class Error : public std::runtime_error {
 public:
  Error(ErrorText text, int exit_status);
  const ErrorText& text() const { return text_; }
  /// Exit status of the command: 1 internal, 2 usage or configuration, 3 data, 4 out of memory, 5 communication.
  int exit_status() const { return exit_status_; }

 private:
  ErrorText text_;
  int exit_status_;
};

/// An unknown key, an impossible layout, an indivisible size: the user's configuration or command line.
struct ConfigError : Error {
  explicit ConfigError(ErrorText text) : Error(std::move(text), 2) {}
};
/// Missing, empty, truncated or foreign files; token ids beyond the vocabulary; a corrupt checkpoint; a full disk.
struct DataError : Error {
  explicit DataError(ErrorText text) : Error(std::move(text), 3) {}
};
/// Names the bytes needed by category and what to lower.
struct OutOfMemoryError : Error {
  explicit OutOfMemoryError(ErrorText text) : Error(std::move(text), 4) {}
};
/// Names the group, the peer, the operation and the seconds waited.
struct CommError : Error {
  explicit CommError(ErrorText text) : Error(std::move(text), 5) {}
};
/// Our own fault: must not look like the user's.
struct InternalError : Error {
  explicit InternalError(ErrorText text) : Error(std::move(text), 1) {}
  explicit InternalError(const std::string& what) : InternalError(ErrorText{what, {}, {}, {}}) {}
};

/// Throws InternalError when an invariant of ours does not hold.
inline void invariant(bool holds, const char* what) {
  if (!holds) throw InternalError(what);
}

}  // namespace tessera
