#pragma once
#include <span>
#include <string>
#include <string_view>

namespace tessera {

/// Insertions, deletions, replacements and swaps of neighbours that turn one text into the other, in bytes
/// (optimal string alignment: Damerau 1964, no part edited twice).
int edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to a misspelt name, the first among equals; empty when none is within 3 edits
/// (of a name shorter than 6 bytes: half its length, at least 1).
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

}  // namespace tessera
