#pragma once
#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tessera {

/// Where messages go, and what it can show.
struct MessageSink {
  std::FILE* file = stderr;
  bool terminal = false;  // the live line is rewritten in place
  bool colors = false;

  /// stderr; a terminal when it is one that can move its cursor (TERM is not "dumb"), with colours unless NO_COLOR is set and not empty.
  static MessageSink standard_error();
};

/// The one object that writes messages: errors, notices and the live line, whole lines only. stdout stays free for data.
/// On a terminal the live line stays last and is rewritten in place; elsewhere each live line is a line. Threads may share it. A failed
/// write is ignored: there is no place left to report it.
class Messages {
 public:
  explicit Messages(MessageSink sink = MessageSink::standard_error());
  ~Messages();  // ends a live line that is still open
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;

  /// "error: " and the error's what, where, legal and hint.
  void error(const Error& error);
  void error(std::string_view text);
  void notice(std::string_view text);
  void live(std::string_view line);
  /// Lets the live line stand as it is; the next message begins below it.
  void end_live();

 private:
  void write(std::string_view colored, std::string_view plain);

  MessageSink sink_;
  std::mutex mutex_;
  std::string live_;  // on the terminal's last line now; empty when there is none
};

}  // namespace tessera
