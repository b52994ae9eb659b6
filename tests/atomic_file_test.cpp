#include "base/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public testing::Test {
 protected:
  AtomicFileTest() {
    std::string name = (fs::temp_directory_path() / "tessera_atomic_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    path_ = (folder_ / "file").string();
  }
  ~AtomicFileTest() override { fs::remove_all(folder_); }

  void publish(std::string_view text) {
    AtomicFile file(path_);
    file.write(text);
    file.finish();
    file.publish();
  }
  std::string content() {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  int64_t files() { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

  fs::path folder_;
  std::string path_;
};

TEST_F(AtomicFileTest, TheOldContentStandsUntilTheNewIsPublished) {
  publish("old");
  AtomicFile file(path_);
  file.write(std::string_view("new"));
  file.finish();
  EXPECT_EQ(content(), "old");
  file.publish();
  EXPECT_EQ(content(), "new");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, AFileThatIsNeverPublishedLeavesNothingBehind) {
  publish("old");
  { AtomicFile(path_).write(std::string_view("new")); }
  EXPECT_EQ(content(), "old");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, PiecesLargerThanTheBufferArriveWhole) {
  std::string text(5'000'001, ' ');
  for (size_t i = 0; i < text.size(); i++) text[i] = static_cast<char>('a' + i % 23);
  AtomicFile file(path_);
  file.write(std::string_view(text).substr(0, 7));
  file.write(std::string_view(text).substr(7));
  EXPECT_EQ(file.bytes(), static_cast<int64_t>(text.size()));
  file.finish();
  file.publish();
  EXPECT_EQ(content(), text);
}

TEST_F(AtomicFileTest, ADiskThatTakesNoMoreIsADataErrorAndTheOldContentSurvives) {
  publish("old");
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{1000, old_limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_THROW(publish(std::string(1001, 'x')), DataError);
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(content(), "old");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, AMissingFolderIsADataErrorThatNamesTheFile) {
  path_ = (folder_ / "missing" / "file").string();
  try {
    publish("text");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(error.text().what.find(path_), std::string::npos);
  }
}

}  // namespace
}  // namespace tessera
