#include "tokenizer/json_lines.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Documents = std::vector<std::string>;

class JsonLinesTest : public testing::Test {
 protected:
  JsonLinesTest() {
    std::string name = (fs::temp_directory_path() / "tessera_json_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~JsonLinesTest() override { fs::remove_all(folder_); }

  TextFile write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return {(folder_ / name).string(), static_cast<int64_t>(text.size())};
  }
  static Documents documents(const TextFile& file, const std::string& key = "text", int64_t begin_bytes = 0) {
    JsonLinesReader reader(file, key, begin_bytes);
    Documents all;
    for (std::string text; reader.next(text);) all.push_back(text);
    return all;
  }
  /// The error on reading `text`; line 3 of it holds the fault.
  ErrorText refusal(const std::string& line, const std::string& key = "text") {
    const TextFile file = write("bad.jsonl", "{\"text\": \"one\", \"body\": \"two\"}\n\n" + line + "\n{\"text\": \"four\"}\n");
    try {
      documents(file, key);
    } catch (const DataError& error) {
      return error.text();
    }
    return {};
  }

  fs::path folder_;
};

TEST_F(JsonLinesTest, EachLineIsADocument) {
  const TextFile file = write("a.jsonl", "{\"text\": \"one\\ntwo\", \"id\": 7}\n{\"id\": {\"text\": \"no\"}, \"text\": \"three\"}\n");
  EXPECT_TRUE(is_json_lines(file));
  EXPECT_FALSE(is_json_lines(write("a.json", "{}")));
  EXPECT_EQ(documents(file), (Documents{"one\ntwo", "three"}));
}

TEST_F(JsonLinesTest, TheKeyIsTheUsers) {
  EXPECT_EQ(documents(write("a.jsonl", "{\"text\": \"one\", \"body\": \"two\"}\n"), "body"), Documents{"two"});
}

TEST_F(JsonLinesTest, EscapesAndCharactersComeAsUtf8) {
  EXPECT_EQ(documents(write("a.jsonl", "{\"text\": \"\\u00e9\\ud83d\\ude00\\t\\\"\\u0000\"}\n")),
            Documents{std::string("\u00e9\U0001F600\t\"\0", 9)});
  EXPECT_EQ(documents(write("a.jsonl", "{\"text\": \"caf\xE9 \u00e9\"}\n")), Documents{"caf\uFFFD \u00e9"});  // as in plain text files
}

TEST_F(JsonLinesTest, BlankLinesEmptyDocumentsAndForeignLineEndsAreLeftOut) {
  EXPECT_EQ(documents(write("a.jsonl", "\n{\"text\": \"one\"}\r\n \t\r\n{\"text\": \"\"}\n{\"text\": \"two\"}")),
            (Documents{"one", "two"}));
  EXPECT_EQ(documents(write("a.jsonl", "\xEF\xBB\xBF{\"text\": \"one\"}\n")), Documents{"one"});
}

TEST_F(JsonLinesTest, AFaultNamesFileAndLineAndWhatIsLegal) {
  const std::string where = (folder_ / "bad.jsonl").string() + ", line 3";
  for (const auto& [line, what] : {std::pair{"{\"text\": \"cut o", "not JSON"},
                                   {"{\"text\": \"a\"} {\"text\": \"b\"}", "not JSON"},
                                   {"{\"text\": \"\\ud800\"}", "not JSON"},
                                   {"plain text", "not JSON"},
                                   {"{\"text\": \"a\", \"number\": 1e999}", "not JSON"},
                                   {"[\"text\"]", "array in place of an object"},
                                   {"{\"text\": null}", "null in place of a string under `text`"},
                                   {"{\"text\": [\"a\"]}", "array in place of a string under `text`"},
                                   {"{\"body\": \"a\", \"n\": 1, \"raw\": \"b\"}", "no field `text`"}}) {
    const ErrorText error = refusal(line);
    EXPECT_EQ(error.where, where);
    EXPECT_EQ(error.what, where + ": " + what);
    EXPECT_EQ(error.legal, "a JSON object with a string under \"text\" on each line");
  }
  EXPECT_EQ(refusal("{\"body\": \"a\", \"n\": 1, \"raw\": \"b\"}").hint, "`--text-key` names another field; strings here: body, raw");
  EXPECT_EQ(refusal("{\"text\": \"a\"}", "body").what, where + ": no field `body`");
  EXPECT_EQ(refusal("{\"text\": \"good\"}").what, "");
}

TEST_F(JsonLinesTest, ReadingMayBeginAnywhereAndStillNamesTheLine) {
  const std::string text = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n{\"text\": \"three\"}";
  const TextFile file = write("a.jsonl", text);
  const Documents all = {"one", "two", "three"};
  for (size_t begin = 0; begin <= text.size(); begin++) {
    const size_t skipped = begin == 0 ? 0 : begin <= text.find('\n') + 1 ? 1 : begin <= text.rfind('\n') + 1 ? 2 : 3;
    EXPECT_EQ(documents(file, "text", static_cast<int64_t>(begin)), Documents(all.begin() + static_cast<int64_t>(skipped), all.end()))
        << begin;
  }
  JsonLinesReader reader(file, "text", 3);
  std::string document;
  ASSERT_TRUE(reader.next(document));
  EXPECT_EQ(reader.position_bytes(), static_cast<int64_t>(text.rfind('\n') + 1));
  try {
    documents(write("b.jsonl", text + "\n7\n"), "text", 20);
    FAIL() << "a number is no document";
  } catch (const DataError& error) {
    EXPECT_EQ(error.text().where, (folder_ / "b.jsonl").string() + ", line 4");
  }
}

TEST_F(JsonLinesTest, AFileThatVanishedIsAnError) {
  EXPECT_THROW(JsonLinesReader({(folder_ / "gone.jsonl").string(), 4}, "text"), DataError);
}

TEST_F(JsonLinesTest, ASmallSampleIsTheTextOfAllDocumentsBesideThatOfOtherFiles) {
  write("a.jsonl", "{\"body\": \"one\"}\n{\"body\": \"two\\n\"}\n");
  write("b.txt", "three");
  TextFiles texts = gather_text_files(std::vector{folder_.string()});
  texts.text_key = "body";
  EXPECT_EQ(sample_text(texts, 1000), "one\ntwo\nthree\n");
}

TEST_F(JsonLinesTest, ALargeSampleIsTakenEvenlyInWholeLinesAndNoDocumentTwice) {
  std::string text;
  constexpr int count = 40000;
  for (int i = 0; i < count; i++) text += "{\"text\": \"document " + std::to_string(100000 + i) + "\"}\n";  // 16 bytes of text in 29
  const TextFiles texts{{write("a.jsonl", text)}, static_cast<int64_t>(text.size()), 0};
  constexpr int64_t budget = 256 << 10;
  const std::string sample = sample_text(texts, budget);
  EXPECT_LE(static_cast<int64_t>(sample.size()), budget);
  EXPECT_GE(static_cast<int64_t>(sample.size()), budget * 7 / 8);  // the last window reaches the end of the file early
  int last = -1, quarter[4] = {};
  for (size_t i = 0; i < sample.size(); i += 16) {
    ASSERT_EQ(sample.substr(i, 10), "document 1");
    const int document = std::stoi(sample.substr(i + 10, 5));
    ASSERT_GT(document, last);
    last = document;
    quarter[4 * document / count]++;
  }
  for (const int documents_of_quarter : quarter) EXPECT_GT(documents_of_quarter, 1000);
}

TEST_F(JsonLinesTest, DocumentsLongerThanAWindowAreSampledOnceUpToTheBudgetOfAWindow) {
  std::string text;
  for (const char letter : {'a', 'b', 'c', 'd'}) text += "{\"text\": \"" + std::string(300000, letter) + "\"}\n";
  const TextFiles texts{{write("a.jsonl", text)}, static_cast<int64_t>(text.size()), 0};
  const std::string sample = sample_text(texts, 512 << 10);  // 8 windows of 64 KiB, more than there are documents
  for (const char letter : {'a', 'b', 'c', 'd'}) EXPECT_EQ(std::count(sample.begin(), sample.end(), letter), 64 << 10) << letter;
}

}  // namespace
}  // namespace tessera
