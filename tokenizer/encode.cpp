#include "tokenizer/encode.h"

#include <atomic>
#include <future>
#include <optional>
#include <vector>

#include "base/error.h"
#include "tokenizer/indexed_file.h"
#include "tokenizer/json_lines.h"

namespace tessera {

namespace {

constexpr int64_t piece_bytes = 1 << 20;
constexpr size_t batch_bytes_per_thread = 4 << 20;

struct Piece {
  std::string text;
  bool ends_document = false;
  std::vector<int32_t> tokens;
};

/// The files' text piece by piece, in order; an empty piece ends a document whose end was not known before.
class Pieces {
 public:
  explicit Pieces(const TextFiles& texts) : texts_(texts) {}

  bool next(Piece& piece) {
    for (;;) {
      if (lines_) {
        piece.ends_document = true;
        if (lines_->next(piece.text)) return true;
        lines_.reset();
      }
      if (text_) {
        piece.ends_document = !text_->next(piece.text);
        if (piece.ends_document) text_.reset();
        return true;
      }
      if (file_ == texts_.files.size()) return false;
      open(texts_.files[file_++]);
    }
  }

 private:
  void open(const TextFile& file) {
    if (is_json_lines(file)) {
      lines_.emplace(file, texts_.text_key);
    } else {
      text_.emplace(file, piece_bytes);
    }
  }

  const TextFiles& texts_;
  size_t file_ = 0;
  std::optional<TextReader> text_;
  std::optional<JsonLinesReader> lines_;
};

void encode_batch(const Tokenizer& tokenizer, std::vector<Piece>& batch, int threads) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i; (i = next++) < batch.size();) {
      tokenizer.encode(batch[i].text, batch[i].tokens);
      if (batch[i].ends_document) batch[i].tokens.push_back(tokenizer.end_of_document());
    }
  };
  std::vector<std::future<void>> workers;
  for (int t = 1; t < threads; t++) workers.push_back(std::async(std::launch::async, work));
  work();
  for (auto& worker : workers) worker.get();
}

}  // namespace

EncodedTexts encode_files(const Tokenizer& tokenizer, const TextFiles& texts, const std::string& prefix, int threads,
                          const std::function<void(const EncodedTexts&)>& progress) {
  invariant(threads >= 1, "encoding takes at least one thread");
  IndexedFileWriter writer(prefix, tokenizer.vocabulary());
  EncodedTexts total;
  Pieces pieces(texts);
  for (bool more = true; more;) {
    std::vector<Piece> batch;
    for (size_t bytes = 0; bytes < batch_bytes_per_thread * threads;) {
      Piece piece;
      more = pieces.next(piece);
      if (!more) break;
      bytes += piece.text.size();
      batch.push_back(std::move(piece));
    }
    encode_batch(tokenizer, batch, threads);
    for (const Piece& piece : batch) {
      writer.add_tokens(piece.tokens);
      if (piece.ends_document) writer.end_document();
      total.documents += piece.ends_document;
      total.tokens += static_cast<int64_t>(piece.tokens.size());
      total.text_bytes += static_cast<int64_t>(piece.text.size());
    }
    if (progress) progress(total);
  }
  writer.finish();
  return total;
}

}  // namespace tessera
