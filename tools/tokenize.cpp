// tessera tokenize: trains a tokenizer, encodes text.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/units.h"
#include "report/messages.h"
#include "tokenizer/encode.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/text_files.h"
#include "tools/commands.h"
#include "tools/options.h"

namespace tessera {

namespace {

struct TokenizeArguments {
  std::vector<std::string> inputs;
  std::string input_list, text_key = "text", output, model;
  int64_t vocab_size = 4096, sample_bytes = 8 << 20;
};

std::vector<std::string> inputs_of(const TokenizeArguments& arguments) {
  std::vector<std::string> inputs = arguments.inputs;
  if (!arguments.input_list.empty()) {
    std::ifstream list(arguments.input_list);
    if (!list) {
      const std::string reason = std::strerror(errno);
      throw DataError({"cannot read the list of inputs: " + reason, arguments.input_list, "a text file with a path a line", {}});
    }
    for (std::string line; std::getline(list, line);) {
      if (!line.empty()) inputs.push_back(line);
    }
  }
  return inputs;
}

Tokenizer train_tokenizer(const std::string& text, int64_t vocab_size) {
  try {
    return Tokenizer::train(text, vocab_size);
  } catch (const ConfigError& error) {  // it does not know where the size was given
    ErrorText where = error.text();
    where.where = fmt::format("--vocab-size {}", vocab_size);
    throw ConfigError(where);
  }
}

/// Texts to read, and a word on what was found beside them.
TextFiles texts_of(const TokenizeArguments& arguments) {
  TextFiles texts = gather_text_files(inputs_of(arguments));
  texts.text_key = arguments.text_key;
  if (texts.skipped_files > 0) {
    Messages().notice(fmt::format("files and folders skipped: {} (binary, empty, unreadable or met before)", texts.skipped_files));
  }
  return texts;
}

void run_train(const TokenizeArguments& arguments) {
  const TextFiles texts = texts_of(arguments);
  const Tokenizer tokenizer = train_tokenizer(sample_text(texts, arguments.sample_bytes), arguments.vocab_size);
  tokenizer.save(arguments.output);
  Messages().notice(fmt::format("tokenizer of {} tokens: {}", tokenizer.vocabulary(), arguments.output));
}

void run_encode(const TokenizeArguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::open(arguments.model);
  const TextFiles texts = texts_of(arguments);
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const EncodedTexts encoded = encode_files(tokenizer, texts, arguments.output, threads);
  Messages().notice(fmt::format("{} documents, {} as {} tokens: {}.bin, {}.idx", encoded.documents, format_bytes(encoded.text_bytes),
                                encoded.tokens, arguments.output, arguments.output));
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto* command = app.add_subcommand("tokenize", "train a tokenizer; encode text");
  command->require_subcommand(1);
  auto arguments = std::make_shared<TokenizeArguments>();
  const auto add_inputs = [&](CLI::App* sub) {
    sub->add_option("--input", arguments->inputs, "text files, JSON Lines (NAME.jsonl) and folders");
    sub->add_option("--input-list", arguments->input_list, "a file with a path a line");
    sub->add_option("--text-key", arguments->text_key, "the field of JSON Lines that holds the text; default text");
  };
  auto* train = command->add_subcommand("train", "learn a SentencePiece vocabulary");
  add_inputs(train);
  add_checked_option(train, "--vocab-size", arguments->vocab_size, at_least(1), "tokens");
  add_checked_option(train, "--sample-bytes", arguments->sample_bytes, at_least(1), "text to learn from, taken evenly from all files");
  train->add_option("--output", arguments->output, "the model file")->required();
  train->callback([arguments] { run_train(*arguments); });
  auto* encode = command->add_subcommand("encode", "turn text into a token file");
  add_inputs(encode);
  encode->add_option("--model", arguments->model, "a model of `tessera tokenize train`")->required();
  encode->add_option("--output", arguments->output, "prefix of the token file: PREFIX.bin, PREFIX.idx")->required();
  encode->callback([arguments] { run_encode(*arguments); });
}

}  // namespace tessera
