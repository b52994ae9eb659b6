#include "tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <unordered_map>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "tokenizer/utf8.h"

namespace tessera {

constexpr std::string_view space_sign = "\u2581";
constexpr size_t max_training_line_bytes = 4096;  // the BPE trainer counts positions within a word in 16 bits
constexpr size_t max_run_bytes = 16 << 10;        // of encoding: bounds memory on files without newlines
constexpr int64_t max_vocabulary = 1 << 20;

namespace {

/// The text line by line, cut at tabs too: both have tokens of their own, and the trainer uses the tab for itself.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::string_view text) : rest_(text) { Next(); }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    rest_.remove_prefix(std::min(rest_.find_first_not_of("\n\t"), rest_.size()));
    done_ = rest_.empty();
    size_t length = std::min(rest_.find_first_of("\n\t"), rest_.size());
    if (length > max_training_line_bytes) length = utf8_boundary(rest_, max_training_line_bytes);
    line_ = rest_.substr(0, length);
    rest_.remove_prefix(length);
  }

 private:
  std::string_view rest_;
  std::string line_;
  bool done_ = false;
};

/// SentencePiece states the least vocabulary only in its message "... 100 vs 349. ...".
std::string required_pieces(const std::string& message) {
  const size_t at = message.find(" vs ");
  const size_t end = at == std::string::npos ? at : message.find_first_not_of("0123456789", at + 4);
  return at == std::string::npos ? "" : message.substr(at + 4, end - at - 4);
}

}  // namespace

struct Tokenizer::Model {
  std::string serialized;
  sentencepiece::SentencePieceProcessor processor;
  std::vector<std::string> text_of_piece;
  std::array<int32_t, 256> byte_piece{};
  int32_t newline = 0, tab = 0;
  bool words_apart = true;  // no token holds a space behind another character: true of every model trained here

  /// Empty, or why this model cannot serve.
  std::string load(std::string bytes) {
    serialized = std::move(bytes);
    if (serialized.empty() || !processor.LoadFromSerializedProto(serialized).ok()) return "is not a SentencePiece model";
    for (int id = 0; id < processor.GetPieceSize(); id++) {
      text_of_piece.push_back(text_of(id));
      const std::string& piece = text_of_piece.back();
      const size_t word = piece.find_first_not_of(' ');
      if (word != std::string::npos && piece.find(' ', word) != std::string::npos) words_apart = false;
    }
    for (int byte = 0; byte < 256; byte++) {
      byte_piece[byte] = processor.PieceToId(fmt::format("<0x{:02X}>", byte));
      if (!processor.IsByte(byte_piece[byte])) return "has no byte tokens";
    }
    newline = processor.PieceToId("\n");
    tab = processor.PieceToId("\t");
    if (text_of_piece[newline] != "\n" || text_of_piece[tab] != "\t") return "has no tokens for newline and tab";
    if (processor.bos_id() < 0 || processor.eos_id() < 0) return "has no begin and end tokens";
    std::vector<int> ids;
    std::string probe = "  two  spaces \u00e9 \uFB01 A\u030A ", back;  // a prefix, a removed space or a normalized character would show
    if (!processor.Encode(probe, &ids).ok()) return "does not encode";
    for (int id : ids) back += text_of_piece[id];
    return back == probe ? "" : "changes the text that it encodes (normalization or dummy prefix)";
  }

  std::string text_of(int id) const {
    if (processor.IsControl(id)) return "";
    if (processor.IsUnknown(id)) return "\uFFFD";
    const std::string& piece = processor.IdToPiece(id);
    if (processor.IsByte(id)) return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    std::string text;
    for (size_t i = 0, found; i < piece.size(); i = found + space_sign.size()) {
      found = std::min(piece.find(space_sign, i), piece.size());
      text.append(piece, i, found - i);
      if (found == piece.size()) break;
      text += ' ';
    }
    return text;
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Model> model) : model_(std::move(model)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::train(std::string_view text, int64_t vocabulary) {
  if (vocabulary < 1 || vocabulary > max_vocabulary) {
    throw ConfigError({fmt::format("a vocabulary of {} tokens", vocabulary), {}, fmt::format("1 to {}", max_vocabulary), {}});
  }
  Lines lines(text);
  if (lines.done()) throw DataError({"no text to train a tokenizer on", {}, "at least one line of text", {}});
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocabulary)},
      {"hard_vocab_limit", "false"},  // so that a text too short yields the largest legal vocabulary, for the message below
      {"byte_fallback", "true"},
      {"character_coverage", "0.9995"},
      {"user_defined_symbols", "\n,\t"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"allow_whitespace_only_pieces", "true"},  // indentation
      {"split_digits", "true"},
      {"max_sentence_length", std::to_string(max_training_line_bytes)},
      {"input_sentence_size", "0"},  // all lines: sampling is the caller's, and not random
      {"shuffle_input_sentence", "false"},
      {"num_threads", "1"},
      {"minloglevel", "3"},
  };
  std::string serialized;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &serialized);
  if (!status.ok()) {
    const std::string least = required_pieces(status.ToString());
    if (least.empty()) throw DataError({"SentencePiece cannot train on this text: " + status.ToString(), {}, "UTF-8 text", {}});
    throw ConfigError({fmt::format("a vocabulary of {} tokens is too small for the characters of this text", vocabulary),
                       {},
                       fmt::format("at least {}: 256 bytes, special tokens, and the text's characters", least),
                       {}});
  }
  auto model = std::make_unique<Model>();
  const std::string reason = model->load(std::move(serialized));
  if (!reason.empty()) throw InternalError("the tokenizer just trained " + reason);
  const auto pieces = static_cast<int64_t>(model->text_of_piece.size());
  if (pieces != vocabulary) {
    throw ConfigError({fmt::format("a vocabulary of {} tokens is too large for this text ({} bytes)", vocabulary, text.size()),
                       {},
                       fmt::format("at most {}", pieces),
                       "give more text or a smaller vocabulary"});
  }
  return Tokenizer(std::move(model));
}

Tokenizer Tokenizer::open(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  constexpr const char* legal = "a model file that `tessera tokenize train` wrote";
  if (!file || !(bytes << file.rdbuf())) {
    throw DataError({fmt::format("cannot read the tokenizer {}: {}", path, file ? "it is empty" : std::strerror(errno)), path, legal, {}});
  }
  auto model = std::make_unique<Model>();
  const std::string reason = model->load(std::move(bytes).str());
  if (!reason.empty()) throw DataError({path + " " + reason, path, legal, {}});
  return Tokenizer(std::move(model));
}

void Tokenizer::save(const std::string& path) const { write_text_atomically(path, model_->serialized); }

int64_t Tokenizer::vocabulary() const { return static_cast<int64_t>(model_->text_of_piece.size()); }
int32_t Tokenizer::unknown_id() const { return model_->processor.unk_id(); }
int32_t Tokenizer::begin_id() const { return model_->processor.bos_id(); }
int32_t Tokenizer::end_id() const { return model_->processor.eos_id(); }

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& tokens) const {
  // No token spans the end of a word, so words can be encoded one by one, and each only once: where in `tokens` it stands, and how long.
  std::unordered_map<std::string_view, std::pair<size_t, size_t>> seen;
  std::vector<int> fresh;
  size_t begin = 0;  // of the run of characters that SentencePiece represents as themselves
  const auto flush = [&](size_t end) {
    const std::string_view run = text.substr(begin, end - begin);
    begin = end;
    if (run.empty()) return;
    const auto [entry, is_new] = seen.try_emplace(run, tokens.size(), 0);
    auto& [from, count] = entry->second;
    if (!is_new) {
      for (size_t k = 0; k < count; k++) tokens.push_back(tokens[from + k]);
      return;
    }
    const auto status = model_->processor.Encode(run, &fresh);
    if (!status.ok()) throw InternalError("SentencePiece does not encode: " + status.ToString());
    tokens.insert(tokens.end(), fresh.begin(), fresh.end());
    count = fresh.size();
  };
  for (size_t i = 0; i < text.size();) {
    const int length = utf8_length(text.substr(i, 4));
    const std::string_view character = text.substr(i, std::max(length, 1));
    const char first = character.front();
    const bool own_token = first == '\n' || first == '\t';
    const bool spelled = length == 0 || first == '\0' || character == space_sign;
    const bool new_word = first == ' ' && i > begin && text[i - 1] != ' ' && model_->words_apart;
    if (own_token || spelled || new_word || i - begin >= max_run_bytes) flush(i);
    if (own_token) tokens.push_back(first == '\n' ? model_->newline : model_->tab);
    if (spelled) {
      for (char byte : character) tokens.push_back(model_->byte_piece[static_cast<uint8_t>(byte)]);
    }
    i += character.size();
    if (own_token || spelled) begin = i;
  }
  flush(text.size());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens;
  encode(text, tokens);
  return tokens;
}

std::string Tokenizer::decode(std::span<const int32_t> tokens) const {
  std::string text;
  for (size_t i = 0; i < tokens.size(); i++) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary()) {
      throw DataError({fmt::format("token id {} at position {} is not in the vocabulary", tokens[i], i),
                       {},
                       fmt::format("0 to {}", vocabulary() - 1),
                       {}});
    }
    text += model_->text_of_piece[tokens[i]];
  }
  return text;
}

}  // namespace tessera
