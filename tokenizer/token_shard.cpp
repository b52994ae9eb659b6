#include "tokenizer/token_shard.h"

#include <fmt/format.h>

#include <algorithm>

namespace tessera {

constexpr int32_t magic = 20240520, version = 1;
constexpr int64_t header_bytes = 1024, unused_begin_bytes = 64, token_bytes = 2;
constexpr const char* legal_header = "magic 20240520 and version 1: uint16 tokens, llm.c's GPT-2 format";

static bool has_header(const MappedFile& file) {
  if (file.bytes() >= 4 && file.load<int32_t>(0) == magic) return true;
  return file.bytes() >= header_bytes &&
         std::all_of(file.data() + unused_begin_bytes, file.data() + header_bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

TokenShard::TokenShard(const std::string& path, int64_t vocabulary) : TokenFile(path), file_(path) {
  const bool header = has_header(file_);
  if (header) check_header();
  const int64_t skipped_bytes = header ? header_bytes : 0;
  if (file_.bytes() % token_bytes != 0) {
    file_.refuse(fmt::format("{} bytes, which is odd: truncated or foreign", file_.bytes()), "uint16 tokens, 2 bytes each");
  }
  tokens_ = {.data = file_.data() + skipped_bytes, .count = (file_.bytes() - skipped_bytes) / token_bytes, .narrow = true};
  check_vocabulary(file_, tokens_, vocabulary);
}

void TokenShard::check_header() const {
  if (const auto found = file_.load<int32_t>(0); found != magic)
    file_.refuse(fmt::format("a header of llm.c, but its magic is {}", found), legal_header,
                 "llm.c's data scripts write it with --model_desc gpt-2");
  if (file_.bytes() < header_bytes)
    file_.refuse(fmt::format("truncated: {} bytes", file_.bytes()), fmt::format("a header of {} bytes, then tokens", header_bytes));
  if (const auto found = file_.load<int32_t>(4); found != version) file_.refuse(fmt::format("format version {}", found), legal_header);
  const int64_t tokens = file_.load<int32_t>(8), bytes = header_bytes + token_bytes * tokens;
  if (tokens < 1) file_.refuse(fmt::format("its header counts {} tokens", tokens), "at least 1 token");
  if (file_.bytes() != bytes) {
    file_.refuse(fmt::format("{} bytes do not match the {} tokens that its header counts: truncated or foreign", file_.bytes(), tokens),
                 fmt::format("{} bytes", bytes));
  }
}

}  // namespace tessera
