#pragma once
#include <cstdint>
#include <string>
#include <string_view>

/// Quantities for people: at most one unit, never more digits than are worth reading. Files and JSON carry plain numbers.
namespace tessera {

/// "512 B", "1.4 GiB", "139.8 GiB": powers of 1024 with one decimal. Negative numbers (differences) keep their sign.
std::string format_bytes(int64_t bytes);

/// "85.0 us", "412 ms", "1.23 s", "6 min", "2 h 5 min", "3 d 4 h": three digits below 100 s, whole units above.
std::string format_seconds(double seconds);

/// "7", "0.25", "318 k", "1.56 G": three digits and a power of 1000.
std::string format_count(double count);

/// "318 ktok/s" for (318000, "tok"), "46.2 TFLOP/s" for (46.2e12, "FLOP").
std::string format_rate(double per_second, std::string_view unit);

}  // namespace tessera
