#include "tokenizer/sentencepiece.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "base/error.h"
#include "tokenizer/encode.h"
#include "tokenizer/indexed_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

/// Source code with tabs, indentation and repetition enough for a small vocabulary.
std::string training_text() {
  std::string text;
  for (int i = 0; i < 400; i++) {
    text += "/* <s> </s> <unk> <0x41> na\u00efve */\nstatic int function_" + std::to_string(i) +
            "(const char *name)\n{\n\tif (name == NULL)\n" + "\t\treturn -" + std::to_string(i * 7919 % 1000) +
            ";\n        for (size_t i = 0; i < " + std::to_string(i) + "; i++) total += name[i];\n}\n\n";
  }
  return text;
}

const Tokenizer& shared_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::train(training_text(), 400);
  return tokenizer;
}

class TokenizerTest : public testing::Test {
 protected:
  TokenizerTest() {
    std::string name = (fs::temp_directory_path() / "tessera_tokenizer_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~TokenizerTest() override { fs::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& bytes) {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  static std::string read(const std::string& path) {
    std::ostringstream out;
    out << std::ifstream(path, std::ios::binary).rdbuf();
    return out.str();
  }

  const Tokenizer& tokenizer_ = shared_tokenizer();
  fs::path folder_;
};

TEST_F(TokenizerTest, DecodeGivesBackEveryText) {
  const std::string nul("a\0b", 3);
  for (const std::string& text :
       {std::string(), std::string(" "), std::string("   leading and trailing   "), std::string("\n\n\t\t x\t\n \n"),
        std::string("crlf\r\nline\r"), std::string("int main() {\n\treturn  0;\n}\n"), std::string("\u2581 is not a space, \u2581\u2581"),
        std::string("\u2585 \u2047 \uFFFD \uFEFF"), std::string("<s> </s> <unk> <0x41> <0x0A>"),
        std::string("e\u0301 \uFB01 \u212B \u3000 \u00a0"), std::string("\u65e5\u672c\u8a9e \U0001F600"), nul, training_text()}) {
    EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(text)), text);
  }
}

TEST_F(TokenizerTest, DecodeGivesBackArbitraryBytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; round++) {
    std::string bytes(random() % 100, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(bytes)), bytes);
  }
}

TEST_F(TokenizerTest, DecodeGivesBackLongLines) {
  std::string text;
  for (int i = 0; i < 20000; i++) text += "\u00e9 x";  // longer than a run, with characters at its border
  EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(text)), text);
}

TEST_F(TokenizerTest, LinesEncodeAloneAsTheyDoTogether) {
  const std::string first = "\tif (name == NULL)\n", second = "        for (size_t i";
  std::vector<int32_t> parts = tokenizer_.encode(first);
  tokenizer_.encode(second, parts);
  EXPECT_EQ(parts, tokenizer_.encode(first + second));
}

TEST_F(TokenizerTest, TokensAreThoseThatSentencePieceItselfGives) {
  const std::string path = (folder_ / "saved.model").string();
  tokenizer_.save(path);
  sentencepiece::SentencePieceProcessor processor;
  ASSERT_TRUE(processor.Load(path).ok());
  for (const std::string& text :
       {training_text(), std::string("  a   b \t\t  for (int  i = 0;\n \u00e9t\u00e9  na\u00efve  \u65e5\u672c ")}) {
    std::vector<int> expected;
    ASSERT_TRUE(processor.Encode(text, &expected).ok());
    EXPECT_EQ(tokenizer_.encode(text), expected);
  }
}

TEST_F(TokenizerTest, TextIsCompressedAndNeverUnknown) {
  const std::string text = training_text();
  const auto tokens = tokenizer_.encode(text);
  EXPECT_LT(tokens.size() * 2, text.size());
  for (int32_t token : tokens) ASSERT_NE(token, tokenizer_.unknown_id());
}

TEST_F(TokenizerTest, SpecialTokensAreDistinctNeverEncodedAndDecodeToNothing) {
  EXPECT_NE(tokenizer_.begin_id(), tokenizer_.end_id());
  EXPECT_NE(tokenizer_.begin_id(), tokenizer_.unknown_id());
  EXPECT_EQ(tokenizer_.end_of_document(), tokenizer_.end_id());
  for (int32_t token : tokenizer_.encode("<s></s>")) EXPECT_TRUE(token != tokenizer_.begin_id() && token != tokenizer_.end_id());
  EXPECT_EQ(tokenizer_.decode(std::vector<int32_t>{tokenizer_.begin_id(), tokenizer_.end_id()}), "");
}

TEST_F(TokenizerTest, IdsOutsideTheVocabularyAreAnErrorWithTheirPosition) {
  EXPECT_EQ(tokenizer_.vocabulary(), 400);
  for (int32_t bad : {-1, 400}) {
    try {
      tokenizer_.decode(std::vector<int32_t>{5, 6, bad});
      FAIL();
    } catch (const DataError& error) {
      EXPECT_NE(error.text().what.find("position 2"), std::string::npos);
      EXPECT_EQ(error.text().legal, "0 to 399");
    }
  }
}

TEST_F(TokenizerTest, TrainingTwiceGivesTheSameFile) {
  const std::string first = (folder_ / "first.model").string(), second = (folder_ / "second.model").string();
  tokenizer_.save(first);
  Tokenizer::train(training_text(), 400).save(second);
  EXPECT_FALSE(read(first).empty());
  EXPECT_EQ(read(first), read(second));
}

TEST_F(TokenizerTest, ASavedModelEncodesTheSameWhenOpened) {
  const std::string path = (folder_ / "saved.model").string();
  tokenizer_.save(path);
  const Tokenizer opened = Tokenizer::open(path);
  EXPECT_EQ(opened.vocabulary(), tokenizer_.vocabulary());
  EXPECT_EQ(opened.encode(training_text()), tokenizer_.encode(training_text()));
}

TEST_F(TokenizerTest, VocabulariesThatDoNotFitTheTextNameTheBound) {
  const auto legal = [](const std::string& text, int64_t vocabulary) -> std::string {
    try {
      Tokenizer::train(text, vocabulary);
    } catch (const ConfigError& error) {
      return error.text().legal;
    }
    return "";
  };
  const std::string text = "a few words, too few\n";
  const std::string too_large = legal(text, 4000), too_small = legal(text, 100);
  ASSERT_EQ(too_large.substr(0, 8), "at most ");
  ASSERT_EQ(too_small.substr(0, 9), "at least ");
  const int64_t most = std::stoll(too_large.substr(8)), least = std::stoll(too_small.substr(9));
  EXPECT_LE(256, least);
  EXPECT_LE(least, most);
  EXPECT_EQ(Tokenizer::train(text, most).vocabulary(), most);  // the bounds are exact
  EXPECT_EQ(Tokenizer::train(text, least).vocabulary(), least);
  EXPECT_NE(legal(text, most + 1), "");
  EXPECT_NE(legal(text, least - 1), "");
  EXPECT_NE(legal(text, 0), "");
}

TEST_F(TokenizerTest, NoTextIsAnError) {
  EXPECT_THROW(Tokenizer::train("", 300), DataError);
  EXPECT_THROW(Tokenizer::train("\n\t\n", 300), DataError);
}

TEST_F(TokenizerTest, ForeignTruncatedAndMissingModelsAreRefused) {
  const std::string path = (folder_ / "good.model").string();
  tokenizer_.save(path);
  const std::string good = read(path);
  EXPECT_THROW(Tokenizer::open((folder_ / "missing").string()), DataError);
  EXPECT_THROW(Tokenizer::open(folder_.string()), DataError);
  EXPECT_THROW(Tokenizer::open(write("empty", "")), DataError);
  EXPECT_THROW(Tokenizer::open(write("text", "This is no model.\n")), DataError);
  EXPECT_THROW(Tokenizer::open(write("zeros", std::string(1000, '\0'))), DataError);
  for (size_t bytes = 1; bytes < good.size(); bytes += 37)
    EXPECT_THROW(Tokenizer::open(write("cut", good.substr(0, bytes))), DataError) << bytes;
}

TEST_F(TokenizerTest, EncodedFilesHoldOneDocumentAFileWhateverTheThreads) {
  const TextFiles texts = gather_text_files(std::vector{write("a", training_text()), write("b", "short"), write("c", "caf\xE9\n")});
  const std::string one = (folder_ / "one").string(), three = (folder_ / "three").string();
  const EncodedTexts encoded = encode_files(tokenizer_, texts, one, 1);
  encode_files(tokenizer_, texts, three, 3);
  EXPECT_EQ(read(one + ".bin"), read(three + ".bin"));
  EXPECT_EQ(read(one + ".idx"), read(three + ".idx"));

  const IndexedFile file(one, tokenizer_.vocabulary());
  EXPECT_EQ(encoded.documents, 3);
  EXPECT_EQ(file.documents(), 3);
  EXPECT_EQ(file.tokens(), encoded.tokens);
  const std::vector<std::string> expected = {training_text(), "short", "caf\uFFFD\n"};
  for (int64_t d = 0; d < 3; d++) {
    std::vector<int32_t> tokens(file.document_begin(d + 1) - file.document_begin(d));
    file.read(file.document_begin(d), tokens);
    EXPECT_EQ(tokens.back(), tokenizer_.end_of_document());
    EXPECT_EQ(tokenizer_.decode(tokens), expected[d]);
  }
}

TEST_F(TokenizerTest, JsonLinesAreEncodedAsTheFilesOfTheirDocuments) {
  const std::string lines = write("b.jsonl", "{\"text\": \"short\"}\n{\"text\": \"\"}\n{\"text\": \"caf\\u00e9\\n\"}\n");
  const std::string before = write("a", training_text()), behind = write("c", "last");
  const std::string as_lines = (folder_ / "lines").string(), as_files = (folder_ / "files").string();
  const EncodedTexts encoded = encode_files(tokenizer_, gather_text_files(std::vector{before, lines, behind}), as_lines, 2);
  encode_files(tokenizer_, gather_text_files(std::vector{before, write("b1", "short"), write("b2", "caf\u00e9\n"), behind}), as_files, 2);
  EXPECT_EQ(encoded.documents, 4);
  EXPECT_EQ(read(as_lines + ".bin"), read(as_files + ".bin"));
  EXPECT_EQ(read(as_lines + ".idx"), read(as_files + ".idx"));
}

TEST_F(TokenizerTest, ALineWithoutTextIsAnErrorAndLeavesNoTokenFile) {
  const TextFiles texts = gather_text_files(std::vector{write("bad.jsonl", "{\"text\": \"short\"}\n{\"body\": \"two\"}\n")});
  try {
    encode_files(tokenizer_, texts, (folder_ / "bad").string(), 1);
    FAIL() << "a line without text was encoded";
  } catch (const DataError& error) {
    EXPECT_EQ(error.text().where, (folder_ / "bad.jsonl").string() + ", line 2");
  }
  EXPECT_FALSE(fs::exists(folder_ / "bad.bin") || fs::exists(folder_ / "bad.idx"));
}

TEST_F(TokenizerTest, FilesLongerThanAPieceAreOneDocument) {
  std::string text;
  while (text.size() < (5u << 20) / 2) text += training_text();
  const TextFiles texts = gather_text_files(std::vector{write("long", text)});
  encode_files(tokenizer_, texts, (folder_ / "long").string(), 2);
  const IndexedFile file((folder_ / "long").string(), tokenizer_.vocabulary());
  ASSERT_EQ(file.documents(), 1);
  std::vector<int32_t> tokens(file.tokens());
  file.read(0, tokens);
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), tokenizer_.end_of_document()), 1);
  EXPECT_TRUE(tokenizer_.decode(tokens) == text);
}

}  // namespace
}  // namespace tessera
