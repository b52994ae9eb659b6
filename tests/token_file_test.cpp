#include "tokenizer/token_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "tokenizer/indexed_file.h"
#include "tokenizer/loader.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int32_t>;

std::string bytes_of(const std::vector<uint16_t>& tokens) { return {reinterpret_cast<const char*>(tokens.data()), 2 * tokens.size()}; }

/// A header of llm.c, as its write_datafile leaves it.
std::string header(int32_t magic, int32_t version, int32_t tokens) {
  std::vector<int32_t> fields(256);
  fields[0] = magic, fields[1] = version, fields[2] = tokens;
  return {reinterpret_cast<const char*>(fields.data()), 1024};
}
std::string shard(const std::vector<uint16_t>& tokens) {
  return header(20240520, 1, static_cast<int32_t>(tokens.size())) + bytes_of(tokens);
}

class TokenFileTest : public testing::Test {
 protected:
  TokenFileTest() {
    std::string name = (fs::temp_directory_path() / "tessera_token_file_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~TokenFileTest() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return path(name);
  }
  std::string write_indexed(const std::string& name, const std::vector<Tokens>& documents) {
    IndexedFileWriter writer(path(name), 50257);
    for (const Tokens& document : documents) {
      writer.add_tokens(document);
      writer.end_document();
    }
    writer.finish();
    return path(name);
  }
  static Tokens all(const TokenFile& file) {
    Tokens tokens(file.tokens());
    file.read(0, tokens);
    return tokens;
  }
  static Tokens all(const std::string& path) { return all(*open_tokens(path, 50257)); }
  /// The error on opening, or "" when the file opens.
  static std::string refusal(const std::string& path, int64_t vocabulary = 50257) {
    try {
      open_tokens(path, vocabulary);
    } catch (const DataError& error) {
      EXPECT_FALSE(error.text().legal.empty());
      EXPECT_EQ(error.text().where.rfind(path.substr(0, 5), 0), 0u) << error.text().where;
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(TokenFileTest, AShardOfLlmCIsReadBehindItsHeader) {
  const auto file = open_tokens(write("train.bin", shard({50256, 1, 2, 258})), 50257);
  EXPECT_EQ(file->name(), path("train.bin"));
  EXPECT_EQ(all(*file), (Tokens{50256, 1, 2, 258}));
  EXPECT_EQ(file->documents(), 1);
  EXPECT_EQ(file->document_begin(1), 4);
  Tokens two(2);
  file->read(2, two);
  EXPECT_EQ(two, (Tokens{2, 258}));
  EXPECT_THROW(file->read(3, two), InternalError);
  EXPECT_THROW(file->read(-1, two), InternalError);
}

TEST_F(TokenFileTest, RawTokensOfNanoGptAreReadFromTheFirstByte) {
  EXPECT_EQ(all(write("train.bin", std::string("\1\0\2\0\3\0\2\1", 8))), (Tokens{1, 2, 3, 258}));
  std::vector<uint16_t> zeros(2000);  // longer than a header, and zero where the format of llm.c has something
  zeros[100] = 7;
  EXPECT_EQ(all(write("zeros.bin", bytes_of(zeros))).size(), 2000u);
  EXPECT_EQ(all(write("short.bin", bytes_of(std::vector<uint16_t>(511)))).size(), 511u);
}

TEST_F(TokenFileTest, MegatronsFilesAreFoundByTheirPrefixAndByTheirBin) {
  write_indexed("data", {{1, 2, 3}, {4}});
  for (const std::string name : {"data", "data.bin"}) {
    const auto file = open_tokens(path(name), 50257);
    EXPECT_EQ(all(*file), (Tokens{1, 2, 3, 4}));
    EXPECT_EQ(file->documents(), 2);
  }
}

TEST_F(TokenFileTest, EveryTruncationOfAShardIsFound) {
  const std::string good = shard({1, 2, 3, 4, 5, 6, 7});
  const std::string name = write("train.bin", good);
  ASSERT_EQ(refusal(name), "");
  for (size_t bytes = 0; bytes<good.size(); bytes += bytes> 16 && bytes < 960 ? 59 : 1) {
    write("train.bin", good.substr(0, bytes));
    EXPECT_NE(refusal(name).find(name), std::string::npos) << bytes << " bytes";
  }
  write("train.bin", good + std::string(2, '\0'));
  EXPECT_NE(refusal(name).find("legal: 1038 bytes"), std::string::npos) << refusal(name);
}

TEST_F(TokenFileTest, HeadersOfOtherFormatsAreRefusedAndNotReadAsTokens) {
  const std::string tokens = bytes_of({1, 2, 3, 4});
  for (const int32_t magic : {20240801, 20240326, 20240519, 0}) {  // llm.c's Llama 3 data, its GPT-2 weights, nobody's
    const std::string text = refusal(write("other.bin", header(magic, 1, 4) + tokens));
    EXPECT_NE(text.find("its magic is " + std::to_string(magic)), std::string::npos) << text;
    EXPECT_NE(text.find("magic 20240520 and version 1"), std::string::npos);
  }
  EXPECT_NE(refusal(write("other.bin", header(20240520, 7, 4) + tokens)).find("format version 7"), std::string::npos);
  EXPECT_NE(refusal(write("other.bin", header(20240520, 1, 0))).find("counts 0 tokens"), std::string::npos);
  EXPECT_NE(refusal(write("other.bin", header(20240520, 1, -4) + tokens)).find("counts -4 tokens"), std::string::npos);
  EXPECT_NE(refusal(write("other.bin", header(20240520, 1, 1 << 30) + tokens)).find("1032 bytes do not match the 1073741824 tokens"),
            std::string::npos);
}

TEST_F(TokenFileTest, AnOddNumberOfBytesIsRefused) {
  const std::string text = refusal(write("train.bin", std::string("\1\0\2\0\3", 5)));
  EXPECT_NE(text.find("5 bytes, which is odd"), std::string::npos) << text;
  EXPECT_NE(text.find("2 bytes each"), std::string::npos);
}

TEST_F(TokenFileTest, TokensBeyondTheVocabularyAreNamedInEveryFormat) {
  std::vector<uint16_t> tokens(100000, 5);
  tokens[70000] = 777;
  write_indexed("indexed", {{5, 777}});
  EXPECT_NE(refusal(path("indexed"), 777).find("token id 777 at position 1 (document 0)"), std::string::npos);
  for (const std::string& bytes : {shard(tokens), bytes_of(tokens)}) {
    const std::string name = write("train.bin", bytes), text = refusal(name, 777);
    EXPECT_EQ(refusal(name, 778), "");
    EXPECT_NE(text.find("train.bin: token id 777 at position 70000"), std::string::npos) << text;
    EXPECT_NE(text.find("0 to 776"), std::string::npos);
  }
}

TEST_F(TokenFileTest, WhatIsMissingOrEmptyIsNamed) {
  EXPECT_NE(refusal(path("gone")).find("gone.idx"), std::string::npos);
  EXPECT_NE(refusal(path("gone.bin")).find("gone.bin: No such file"), std::string::npos);
  EXPECT_NE(refusal(write("empty.bin", "")).find("empty.bin is empty"), std::string::npos);
  fs::create_directory(folder_ / "folder.bin");
  EXPECT_NE(refusal(path("folder.bin")).find("folder.bin cannot be mapped"), std::string::npos);
}

TEST_F(TokenFileTest, APatternJoinsItsFilesInTheOrderOfTheirNames) {
  write("train_2.bin", bytes_of({20, 21}));
  write("train_1.bin", shard({10, 11, 12}));
  write_indexed("train_3", {{30}, {31, 32}});
  write("validation.bin", bytes_of({99}));
  const auto file = open_tokens(path("train_*.bin"), 50257);
  EXPECT_EQ(all(*file), (Tokens{10, 11, 12, 20, 21, 30, 31, 32}));
  ASSERT_EQ(file->documents(), 4);
  Tokens begins;
  for (int64_t d = 0; d <= 4; d++) begins.push_back(static_cast<int32_t>(file->document_begin(d)));
  EXPECT_EQ(begins, (Tokens{0, 3, 5, 6, 8}));
  for (int64_t begin = 0; begin <= 8; begin++) {
    for (int64_t end = begin; end <= 8; end++) {
      Tokens part(end - begin), whole = all(*file);
      file->read(begin, part);
      EXPECT_EQ(part, Tokens(whole.begin() + begin, whole.begin() + end));
    }
  }
  Tokens two(2);
  EXPECT_THROW(file->read(7, two), InternalError);
  EXPECT_THROW(file->document_begin(5), InternalError);
}

TEST_F(TokenFileTest, SamplesCrossTheBordersOfJoinedFilesAndValidationBeginsWithOne) {
  for (int f = 0; f < 5; f++) {
    std::vector<uint16_t> tokens(100);
    std::iota(tokens.begin(), tokens.end(), static_cast<uint16_t>(100 * f));
    write("shard_" + std::to_string(f) + ".bin", shard(tokens));
  }
  const auto file = open_tokens(path("shard_?.bin"), 50257);
  const DataSplit split = split_tokens(*file, 0.15, 30);
  EXPECT_TRUE(split.between_documents);
  EXPECT_EQ(split.training.end, 400);
  const SampleSource source(file, split.training, 30, std::nullopt);
  for (int64_t i = 0; i < source.samples_per_epoch(); i++) {
    Tokens sample(31), expected(31);
    source.sample(i, sample);
    std::iota(expected.begin(), expected.end(), static_cast<int32_t>(30 * i));
    EXPECT_EQ(sample, expected);
  }
}

TEST_F(TokenFileTest, APatternWithoutTokenFilesIsRefusedAndANameWithItsSignsIsTakenAsItIs) {
  write_indexed("data", {{1}});
  EXPECT_NE(refusal(path("none_*.bin")).find("no file matches"), std::string::npos);
  EXPECT_NE(refusal(path("dat*")).find("does not end in .bin"), std::string::npos);
  write("data_1.bin", bytes_of({1}));
  write("data[1].bin", bytes_of({2}));
  EXPECT_EQ(all(path("data_[1].bin")), Tokens{1});
  EXPECT_EQ(all(path("data[1].bin")), Tokens{2});
  write_indexed("prefix[2]", {{3}});
  EXPECT_EQ(all(path("prefix[2]")), Tokens{3});
  write("data_2.bin", std::string(3, '\1'));  // one bad file among many is named
  EXPECT_NE(refusal(path("data_*.bin")).find("data_2.bin: 3 bytes"), std::string::npos);
}

}  // namespace
}  // namespace tessera
