#include "tokenizer/text_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class TextFilesTest : public testing::Test {
 protected:
  TextFilesTest() {
    std::string name = (fs::temp_directory_path() / "tessera_text_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~TextFilesTest() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }
  TextFiles gather(std::vector<std::string> paths) { return gather_text_files(paths); }

  fs::path folder_;
};

TEST_F(TextFilesTest, FoldersAreReadRecursivelyInSortedOrder) {
  write("b.txt", "bb");
  write("a/z.txt", "z");
  write("a/c.txt", "ccc");
  const TextFiles texts = gather({folder_.string()});
  ASSERT_EQ(texts.files.size(), 3u);
  EXPECT_EQ(texts.files[0].path, (folder_ / "a/c.txt").string());
  EXPECT_EQ(texts.files[1].path, (folder_ / "a/z.txt").string());
  EXPECT_EQ(texts.files[2].path, (folder_ / "b.txt").string());
  EXPECT_EQ(texts.bytes, 6);
  EXPECT_EQ(texts.skipped_files, 0);
}

TEST_F(TextFilesTest, NamedFilesKeepTheirOrder) {
  const std::string b = write("b", "1"), a = write("a", "2");
  EXPECT_EQ(gather({b, a}).files.front().path, b);
}

TEST_F(TextFilesTest, BinaryEmptyAndHiddenFilesInFoldersAreLeftOut) {
  write("text", "text");
  write("binary", std::string("ab\0c", 4));
  write("empty", "");
  write(".hidden", "hidden");
  const TextFiles texts = gather({folder_.string()});
  EXPECT_EQ(texts.files.size(), 1u);
  EXPECT_EQ(texts.skipped_files, 2);
}

TEST_F(TextFilesTest, LinksAreFollowedButNothingIsReadTwice) {
  write("a/text", "text");
  fs::create_directory_symlink(folder_, folder_ / "a/loop");
  fs::create_symlink(folder_ / "a/text", folder_ / "b");
  fs::create_symlink(folder_ / "nowhere", folder_ / "dangling");
  const TextFiles texts = gather({folder_.string(), folder_.string()});
  ASSERT_EQ(texts.files.size(), 1u);
  EXPECT_EQ(texts.files[0].path, (folder_ / "a/text").string());
}

TEST_F(TextFilesTest, WhatIsNamedAndCannotServeIsAnError) {
  write("folder/binary", std::string("\0", 1));
  const std::string binary = (folder_ / "folder/binary").string(), empty = write("empty", "");
  for (const std::string& path : {(folder_ / "missing").string(), binary, empty, (folder_ / "folder").string()}) {
    try {
      gather({path});
      FAIL() << path << " was accepted";
    } catch (const DataError& error) {
      EXPECT_EQ(error.text().where, path);
      EXPECT_FALSE(error.text().legal.empty());
    }
  }
  EXPECT_THROW(gather({}), DataError);
}

TEST_F(TextFilesTest, BytesThatAreNotUtf8BecomeReplacementCharacters) {
  EXPECT_EQ(valid_utf8("caf\xE9 \u00e9 \U0001F600"), "caf\uFFFD \u00e9 \U0001F600");
  EXPECT_EQ(valid_utf8("\xE2\x96"), "\uFFFD\uFFFD");            // cut off
  EXPECT_EQ(valid_utf8("\xC0\xAF"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // surrogate
  EXPECT_EQ(utf8_length("\xF4\x8F\xBF\xBF"), 4);
  EXPECT_EQ(utf8_length("\xF4\x90\x80\x80"), 0);  // above U+10FFFF
  EXPECT_EQ(utf8_length(""), 0);
}

TEST_F(TextFilesTest, PiecesJoinToTheWholeFileAndCutNoCharacter) {
  std::string text;
  for (int i = 0; i < 300; i++) text += (i % 7 == 0 ? "\n" : "") + std::string("x\u00e9\u20ac\U0001F600");
  const TextFile file{write("text", text), static_cast<int64_t>(text.size())};
  for (int64_t piece_bytes : {8, 9, 10, 11, 64, 1000, 1 << 20}) {
    TextReader reader(file, piece_bytes);
    std::string piece, whole;
    while (reader.next(piece)) {
      EXPECT_LE(static_cast<int64_t>(piece.size()), piece_bytes);
      EXPECT_NE(utf8_length(piece), 0) << "a piece starts within a character";
      whole += piece;
    }
    EXPECT_EQ(whole, text) << piece_bytes;
  }
}

TEST_F(TextFilesTest, PiecesEndBehindNewlinesWhereTheyCan) {
  const std::string text = "one\ntwo\nthree\n";
  TextReader reader({write("text", text), static_cast<int64_t>(text.size())}, 9);
  std::string piece;
  ASSERT_TRUE(reader.next(piece));
  EXPECT_EQ(piece, "one\ntwo\n");
  ASSERT_TRUE(reader.next(piece));
  EXPECT_EQ(piece, "three\n");
  EXPECT_FALSE(reader.next(piece));
}

TEST_F(TextFilesTest, AFileThatVanishedIsAnError) {
  EXPECT_THROW(TextReader({(folder_ / "gone").string(), 4}, 16), DataError);
  EXPECT_THROW(sample_text({{{(folder_ / "gone").string(), 4}}, 4, 0}, 16), DataError);
}

TEST_F(TextFilesTest, SmallTextIsSampledWhole) {
  write("a", "one\n");
  write("b", "two");
  EXPECT_EQ(sample_text(gather({folder_.string()}), 100), "one\ntwo\n");
}

TEST_F(TextFilesTest, LargeTextIsSampledEvenlyInWholeLines) {
  constexpr int files = 8, lines = 40000;  // 360 kB a file
  for (int f = 0; f < files; f++) {
    std::string text;
    for (int i = 0; i < lines; i++) text += "file " + std::to_string(f) + " .\n";
    write("f" + std::to_string(f), text);
  }
  constexpr int64_t budget = 512 << 10;
  const std::string sample = sample_text(gather({folder_.string()}), budget);
  EXPECT_LE(static_cast<int64_t>(sample.size()), budget);
  EXPECT_GE(static_cast<int64_t>(sample.size()), budget - 2 * 9 * files * 2);  // all but the lines cut at the ends of 8 windows
  std::vector<int64_t> bytes_of_file(files);
  for (size_t i = 0; i < sample.size(); i += 9) {
    ASSERT_EQ(sample.substr(i, 5), "file ");
    bytes_of_file[sample[i + 5] - '0'] += 9;
  }
  for (int64_t bytes : bytes_of_file) EXPECT_GT(bytes, 0);
}

}  // namespace
}  // namespace tessera
