#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "tokenizer/sentencepiece.h"
#include "tokenizer/text_files.h"

namespace tessera {

struct EncodedTexts {
  int64_t documents = 0;
  int64_t tokens = 0;      // end-of-document tokens included
  int64_t text_bytes = 0;  // as encoded, that is after non-UTF-8 bytes were replaced
};

/// Encodes each file as one document, and of JSON Lines each line (tokenizer/json_lines.h), ended by tokenizer.end_of_document(), into
/// PREFIX.bin and PREFIX.idx (tokenizer/indexed_file.h). The result does not depend on `threads`; memory is bounded by a few MiB a thread and
/// the longest line of JSON, whatever the size of a file. `progress`, where given, is called on the calling thread between batches.
/// Throws DataError (unreadable file, a line without text, full disk); then neither file has changed.
EncodedTexts encode_files(const Tokenizer& tokenizer, const TextFiles& texts, const std::string& prefix, int threads,
                          const std::function<void(const EncodedTexts& so_far)>& progress = {});

}  // namespace tessera
