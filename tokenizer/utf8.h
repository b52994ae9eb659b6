#pragma once
#include <cstdint>
#include <string_view>

namespace tessera {

/// Bytes (1 to 4) of the well-formed UTF-8 character that starts `text`, or 0 when none does (also for empty text).
/// Unicode 15, Table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF.
inline int utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto between = [&](size_t i, uint8_t low, uint8_t high) { return byte(i) >= low && byte(i) <= high; };
  const uint8_t first = byte(0);
  if (first < 0x80) return text.empty() ? 0 : 1;
  if (first >= 0xC2 && first <= 0xDF) return between(1, 0x80, 0xBF) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const uint8_t low = first == 0xE0 ? 0xA0 : 0x80, high = first == 0xED ? 0x9F : 0xBF;
    return between(1, low, high) && between(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const uint8_t low = first == 0xF0 ? 0x90 : 0x80, high = first == 0xF4 ? 0x8F : 0xBF;
    return between(1, low, high) && between(2, 0x80, 0xBF) && between(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

/// The largest n <= at with no character cut in two: up to three continuation bytes are left to the next part.
inline size_t utf8_boundary(std::string_view text, size_t at) {
  if (at >= text.size()) return text.size();
  size_t n = at;
  while (n > 0 && at - n < 3 && (static_cast<uint8_t>(text[n]) & 0xC0) == 0x80) n--;
  return n > 0 ? n : at;
}

}  // namespace tessera
