#include "report/messages.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace tessera {

static constexpr std::string_view red = "\x1b[1;31m", plain_color = "\x1b[0m", erase_line = "\r\x1b[K";

static std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

MessageSink MessageSink::standard_error() {
  MessageSink sink;
  sink.terminal = ::isatty(STDERR_FILENO) == 1 && environment("TERM") != "dumb";
  sink.colors = sink.terminal && environment("NO_COLOR").empty();
  return sink;
}

/// The part of the line that fits: a wrapped line could not be rewritten in place.
static std::string_view fitting(std::string_view line, std::FILE* file) {
  winsize size{};
  const bool known = ::ioctl(::fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  return known ? line.substr(0, size.ws_col - 1) : line;
}

Messages::Messages(MessageSink sink) : sink_(sink) {}

Messages::~Messages() { end_live(); }

void Messages::write(std::string_view colored, std::string_view plain) {
  const std::lock_guard lock(mutex_);
  std::string out;
  if (!live_.empty()) out += erase_line;
  out += sink_.colors ? colored : plain;
  out += "\n" + live_;
  std::fwrite(out.data(), 1, out.size(), sink_.file);
  std::fflush(sink_.file);
}

void Messages::error(const Error& error) { this->error(std::string_view(error.what())); }

void Messages::error(std::string_view text) { write(fmt::format("{}error:{} {}", red, plain_color, text), fmt::format("error: {}", text)); }

void Messages::notice(std::string_view text) { write(text, text); }

void Messages::live(std::string_view line) {
  if (!sink_.terminal) return notice(line);
  const std::lock_guard lock(mutex_);
  live_ = fitting(line, sink_.file);
  const std::string out = std::string(erase_line) + live_;
  std::fwrite(out.data(), 1, out.size(), sink_.file);
  std::fflush(sink_.file);
}

void Messages::end_live() {
  const std::lock_guard lock(mutex_);
  if (live_.empty()) return;
  live_.clear();
  std::fputc('\n', sink_.file);
  std::fflush(sink_.file);
}

}  // namespace tessera
