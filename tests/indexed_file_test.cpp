#include "tokenizer/indexed_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>

#include "base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int32_t>;

template <class T>
void put(std::string& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

class IndexedFileTest : public testing::Test {
 protected:
  IndexedFileTest() {
    std::string name = (fs::temp_directory_path() / "tessera_indexed_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    prefix_ = (folder_ / "data").string();
  }
  ~IndexedFileTest() override { fs::remove_all(folder_); }

  void write_documents(const std::vector<Tokens>& documents, int64_t vocabulary) {
    IndexedFileWriter writer(prefix_, vocabulary);
    for (const Tokens& document : documents) {
      writer.add_tokens(document);
      writer.end_document();
    }
    writer.finish();
  }
  std::string read(const std::string& suffix) {
    std::ostringstream out;
    out << std::ifstream(prefix_ + suffix, std::ios::binary).rdbuf();
    return out.str();
  }
  void write(const std::string& suffix, const std::string& bytes) { std::ofstream(prefix_ + suffix, std::ios::binary) << bytes; }

  /// The what and where of the error on opening, or "" when the file opens.
  std::string refusal(int64_t vocabulary = 1000) {
    try {
      IndexedFile file(prefix_, vocabulary);
    } catch (const DataError& error) {
      EXPECT_FALSE(error.text().legal.empty());
      return error.what();
    }
    return "";
  }

  fs::path folder_;
  std::string prefix_;
};

// Two documents, {1, 2, 3} and {258}, written by hand from Megatron's reader: 9 + 8 + 1 + 8 + 8 header bytes, 2 lengths, 2 pointers, 3 indices.
constexpr char index_of_two[] =
    "MMIDIDX\0\0"
    "\1\0\0\0\0\0\0\0"
    "\x08"
    "\2\0\0\0\0\0\0\0"
    "\3\0\0\0\0\0\0\0"
    "\3\0\0\0"
    "\1\0\0\0"
    "\0\0\0\0\0\0\0\0"
    "\6\0\0\0\0\0\0\0"
    "\0\0\0\0\0\0\0\0"
    "\1\0\0\0\0\0\0\0"
    "\2\0\0\0\0\0\0\0";

TEST_F(IndexedFileTest, BytesAreThoseOfMegatronsFormat) {
  write_documents({{1, 2, 3}, {258}}, 1000);
  EXPECT_EQ(read(".idx"), std::string(index_of_two, sizeof(index_of_two) - 1));
  EXPECT_EQ(read(".bin"), std::string("\1\0\2\0\3\0\2\1", 8));
}

TEST_F(IndexedFileTest, WideVocabulariesAreInt32FromMegatronsBoundOn) {
  write_documents({{1, 2, 3}, {258}}, 65500);
  std::string expected(index_of_two, sizeof(index_of_two) - 1);
  expected[17] = 4;   // dtype code
  expected[50] = 12;  // the second pointer, in bytes
  EXPECT_EQ(read(".idx"), expected);
  EXPECT_EQ(read(".bin"), std::string("\1\0\0\0\2\0\0\0\3\0\0\0\2\1\0\0", 16));
  write_documents({{1}}, 65499);
  EXPECT_EQ(read(".idx")[17], 8);
}

TEST_F(IndexedFileTest, HandWrittenFilesAreRead) {
  write(".idx", std::string(index_of_two, sizeof(index_of_two) - 1));
  write(".bin", std::string("\1\0\2\0\3\0\2\1", 8));
  const IndexedFile file(prefix_, 259);
  EXPECT_EQ(file.tokens(), 4);
  EXPECT_EQ(file.documents(), 2);
  EXPECT_EQ(file.document_begin(1), 3);
  EXPECT_EQ(file.document_begin(2), 4);
  Tokens tokens(3);
  file.read(1, tokens);
  EXPECT_EQ(tokens, (Tokens{2, 3, 258}));
}

TEST_F(IndexedFileTest, DocumentsOfSeveralSequencesAreRead) {
  std::string index(index_of_two, sizeof(index_of_two) - 1);
  index[26] = 2;  // document indices {0, 2}: both sequences are one document
  index.erase(34 + 24 + 8, 8);
  write(".idx", index);
  write(".bin", std::string("\1\0\2\0\3\0\2\1", 8));
  const IndexedFile file(prefix_, 1000);
  EXPECT_EQ(file.documents(), 1);
  EXPECT_EQ(file.document_begin(1), 4);
}

TEST_F(IndexedFileTest, WhatWasWrittenIsRead) {
  for (int64_t vocabulary : {60000, 100000}) {
    Tokens large(700000);  // larger than the writer's buffer
    for (size_t i = 0; i < large.size(); i++) large[i] = static_cast<int32_t>(i * 7919 % vocabulary);
    write_documents({{5}, large, {}, {6, 7}}, vocabulary);
    const IndexedFile file(prefix_, vocabulary);
    EXPECT_EQ(file.documents(), 3);  // the empty one is dropped
    EXPECT_EQ(file.document_begin(1), 1);
    EXPECT_EQ(file.document_begin(2), 700001);
    Tokens back(large.size());
    file.read(1, back);
    EXPECT_TRUE(back == large);
    EXPECT_THROW(file.read(4, back), InternalError);
    EXPECT_THROW(file.read(-1, std::span(back).first(1)), InternalError);
  }
}

TEST_F(IndexedFileTest, EveryTruncationIsFound) {
  write_documents({{1, 2, 3}, {4, 5}, {6}}, 1000);
  ASSERT_EQ(refusal(), "");
  for (const std::string suffix : {".idx", ".bin"}) {
    const std::string good = read(suffix);
    for (size_t bytes = 0; bytes < good.size(); bytes++) {
      write(suffix, good.substr(0, bytes));
      EXPECT_NE(refusal().find(suffix), std::string::npos) << suffix << " of " << bytes << " bytes";
    }
    write(suffix, good + "x");
    EXPECT_NE(refusal().find(suffix), std::string::npos) << suffix << " with a byte too many";
    fs::remove(prefix_ + suffix);
    EXPECT_NE(refusal().find(suffix), std::string::npos) << suffix << " missing";
    write(suffix, good);
  }
}

TEST_F(IndexedFileTest, ForeignAndCorruptIndicesAreFound) {
  write_documents({{1, 2, 3}, {4, 5}, {6}}, 1000);
  const std::string good = read(".idx");
  const size_t lengths = 34, pointers = lengths + 12, indices = pointers + 24;
  const auto refusal_with = [&](auto change) {
    std::string bytes = good;
    change(bytes);
    write(".idx", bytes);
    return refusal();
  };
  EXPECT_EQ(refusal_with([](std::string&) {}), "");
  EXPECT_NE(refusal_with([](std::string& bytes) { bytes[0] = 'X'; }), "");
  EXPECT_NE(refusal_with([](std::string& bytes) { bytes = "a text file that happens to be longer than the header"; }), "");
  EXPECT_NE(refusal_with([](std::string& bytes) { put<uint64_t>(bytes, 9, 2); }).find("version 2"), std::string::npos);
  EXPECT_NE(refusal_with([](std::string& bytes) { bytes[17] = 5; }).find("dtype code 5"), std::string::npos);
  EXPECT_NE(refusal_with([](std::string& bytes) { bytes[17] = 4; }), "");
  EXPECT_NE(refusal_with([](std::string& bytes) { put<uint64_t>(bytes, 18, 4); }), "");
  EXPECT_NE(refusal_with([](std::string& bytes) { put<uint64_t>(bytes, 18, uint64_t{1} << 62); }), "");
  EXPECT_NE(refusal_with([](std::string& bytes) { put<uint64_t>(bytes, 26, ~uint64_t{0}); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int32_t>(bytes, lengths, -3); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int32_t>(bytes, lengths, 4); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int64_t>(bytes, pointers + 8, 7); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int64_t>(bytes, indices, 1); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int64_t>(bytes, indices + 8, 3), put<int64_t>(bytes, indices + 16, 2); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int64_t>(bytes, indices + 24, 2); }), "");
  EXPECT_NE(refusal_with([&](std::string& bytes) { put<int64_t>(bytes, indices + 8, -1); }), "");
}

TEST_F(IndexedFileTest, TokensBeyondTheVocabularyAreNamedWithPositionAndDocument) {
  for (int64_t written_for : {1000, 100000}) {
    Tokens document(100000, 1);
    document[99998] = 777;
    write_documents({{5, 6}, document, {7}}, written_for);
    EXPECT_EQ(refusal(778), "");
    const std::string text = refusal(777);
    EXPECT_NE(text.find("token id 777 at position 100000 (document 1)"), std::string::npos) << text;
    EXPECT_NE(text.find("0 to 776"), std::string::npos);
  }
}

TEST_F(IndexedFileTest, NegativeTokensAreFound) {
  write_documents({{5, 6}}, 100000);
  std::string tokens = read(".bin");
  put<int32_t>(tokens, 4, -2);
  write(".bin", tokens);
  EXPECT_NE(refusal(100000).find("token id -2 at position 1"), std::string::npos);
}

TEST_F(IndexedFileTest, NothingOrForeignTokensAreNotWritten) {
  EXPECT_THROW(write_documents({}, 1000), DataError);
  EXPECT_THROW(write_documents({{}}, 1000), DataError);
  EXPECT_THROW(write_documents({{1000}}, 1000), InternalError);
  EXPECT_THROW(write_documents({{-1}}, 1000), InternalError);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(IndexedFileTest, AnUnfinishedWriterLeavesTheOldFilesAndNothingElse) {
  write_documents({{1, 2}}, 1000);
  {
    IndexedFileWriter writer(prefix_, 1000);
    writer.add_tokens(Tokens{3});
    writer.end_document();
  }
  EXPECT_EQ(IndexedFile(prefix_, 1000).tokens(), 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
}

TEST_F(IndexedFileTest, AFullDiskLeavesTheOldFilesAndNothingElse) {
  write_documents({{1, 2}}, 1000);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = 4 << 20;  // a write beyond it fails, as on a full disk
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const Tokens document(1 << 20, 3);
  EXPECT_THROW(write_documents({document, document, document}, 1000), DataError);
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(IndexedFile(prefix_, 1000).tokens(), 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
}

TEST_F(IndexedFileTest, AFolderThatIsNotThereIsAnError) {
  EXPECT_THROW(IndexedFileWriter((folder_ / "missing/data").string(), 1000), DataError);
}

}  // namespace
}  // namespace tessera
