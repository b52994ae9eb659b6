#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tessera {

/// JSON whose keys keep the order in which they were written, so that people can read the files.
using Json = nlohmann::ordered_json;

/// The file's JSON. DataError when it is missing, unreadable or malformed, naming the file and the place.
Json read_json_file(const std::filesystem::path& path);

/// The whole file as text. DataError when it is missing or unreadable.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace tessera
