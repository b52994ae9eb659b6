#include "base/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/toml.h"

namespace tessera {

struct TestCurve {
  std::string shape = "cosine";
  double floor = 0.1;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("shape", self.shape, one_of({"constant", "cosine", "linear"}), "how the rate falls after the peak");
    visit("floor", self.floor, half_open(0, 1), "share of the peak that remains");
  }
};

struct TestTrain {
  int64_t steps = 1000;
  double learning_rate = 6e-4;
  bool resume = false;
  std::vector<double> betas = {0.9, 0.95};
  TestCurve curve;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("steps", self.steps, at_least(1), "optimizer steps to run");
    visit("learning_rate", self.learning_rate, positive(), "the peak");
    visit.table("curve", self.curve);
    visit("resume", self.resume, any(), "continue an earlier run");
    visit("betas", self.betas, between(0, 1), "decay of the moments");
  }
};

struct TestData {
  std::vector<std::string> files;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("files", self.files, any(), "text files and folders");
  }
};

struct TestConfig {
  TestTrain train;
  TestData data;
  std::string title;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit.table("train", self.train);
    visit.table("data", self.data);
    visit("title", self.title, any(), "for the report");
  }
};

/// The error of reading `toml` as small.toml, or of one --set.
static ErrorText error_of_reading(std::string_view toml) {
  TestConfig config;
  try {
    read_toml_text(toml, "small.toml", config);
  } catch (const ConfigError& error) {
    return error.text();
  }
  return {"no error", {}, {}, {}};
}
static ErrorText error_of_setting(std::string_view assignment) {
  TestConfig config;
  try {
    apply_set(config, assignment);
  } catch (const ConfigError& error) {
    return error.text();
  }
  return {"no error", {}, {}, {}};
}

TEST(ReadToml, OverwritesWhatTheTextNamesAndLeavesTheRest) {
  TestConfig config;
  read_toml_text(
      "title = 'a run'\n[train]\nsteps = 12\nlearning_rate = 1\nbetas = [0, 0.5]\ncurve.shape = 'linear'\n[data]\nfiles = ['a', 'b']\n",
      "x", config);
  EXPECT_EQ(config.title, "a run");
  EXPECT_EQ(config.train.steps, 12);
  EXPECT_EQ(config.train.learning_rate, 1.0);
  EXPECT_EQ(config.train.betas, (std::vector<double>{0, 0.5}));
  EXPECT_EQ(config.train.curve.shape, "linear");
  EXPECT_EQ(config.train.curve.floor, 0.1);
  EXPECT_EQ(config.data.files, (std::vector<std::string>{"a", "b"}));
  read_toml_text("[train]\nbetas = []\n", "y", config);
  EXPECT_TRUE(config.train.betas.empty());
  EXPECT_EQ(config.train.steps, 12);
}

TEST(ReadToml, RemembersWhereEachKeyWasGiven) {
  TestConfig config;
  ConfigSource source;
  read_toml_text("[train]\n\nsteps = 12\nresume = true\n[train.curve]\nfloor = 0\n", "base.toml", config, &source);
  read_toml_text("train = {resume = false}\n", "run.toml", config, &source);
  apply_set(config, "data.files=a.txt", &source);
  const std::map<std::string, std::string> expected = {{"train.steps", "base.toml, line 3"},
                                                       {"train.resume", "run.toml, line 1"},
                                                       {"train.curve.floor", "base.toml, line 6"},
                                                       {"data.files", "--set"}};
  EXPECT_EQ(source.where, expected);
  EXPECT_TRUE(source.sets("train.steps"));
  EXPECT_FALSE(source.sets("title"));
  EXPECT_EQ(source.where_of("title"), "default");
}

TEST(ReadToml, RejectsAnUnknownKeyWithItsPlaceAndASuggestion) {
  const ErrorText error = error_of_reading("[train]\nsteps = 3\nstpes = 4\n");
  EXPECT_EQ(error.what, "unknown key `train.stpes`");
  EXPECT_EQ(error.where, "small.toml, line 3");
  EXPECT_EQ(error.hint, "did you mean `train.steps`?");
}

TEST(ReadToml, RejectsUnknownTablesAndSuggestsTheirNames) {
  const ErrorText error = error_of_reading("\n[trian]\nsteps = 3\n");
  EXPECT_EQ(error.what, "unknown key `trian`");
  EXPECT_EQ(error.where, "small.toml, line 2");
  EXPECT_EQ(error.hint, "did you mean `train`?");
  EXPECT_EQ(error_of_reading("[train.curv]\n").hint, "did you mean `train.curve`?");
  EXPECT_EQ(error_of_reading("[[train]]\nsteps = 1\n").what, "`train` is a table, not a key");
}

TEST(ReadToml, SuggestsTheRightTableForAKeyInTheWrongOne) {
  EXPECT_EQ(error_of_reading("[data]\nlearning_rate = 1\n").hint, "did you mean `train.learning_rate`?");
  EXPECT_EQ(error_of_reading("[data]\ncompletely_else = 1\n").hint, "");
}

TEST(ReadToml, DoesNotTakeAQuotedDotForATable) {
  EXPECT_EQ(error_of_reading("\"train.steps\" = 4\n").what, "unknown key `\"train.steps\"`");
}

TEST(ReadToml, ReportsTheFirstOfSeveralErrorsByLine) {
  EXPECT_EQ(error_of_reading("[train]\nzzz = 1\naaa = 1\n").what, "unknown key `train.zzz`");
}

TEST(ReadToml, RejectsAWrongTypeWithKeyValueAndWhatIsLegal) {
  const ErrorText error = error_of_reading("[train]\nsteps = 'many'\n");
  EXPECT_EQ(error.what, "train.steps = \"many\" is not an integer");
  EXPECT_EQ(error.where, "small.toml, line 2");
  EXPECT_EQ(error.legal, "integer, at least 1");
  EXPECT_EQ(error_of_reading("[train]\nsteps = 1.5\n").what, "train.steps = 1.5 is not an integer");
  EXPECT_EQ(error_of_reading("[train]\nsteps = 1e3\n").what, "train.steps = 1000.0 is not an integer");
  EXPECT_EQ(error_of_reading("[train]\nresume = 1\n").what, "train.resume = 1 is not a bool");
  EXPECT_EQ(error_of_reading("[train]\nresume = 1\n").legal, "true, false");
  EXPECT_EQ(error_of_reading("[train]\nlearning_rate = true\n").what, "train.learning_rate = true is not a number");
  EXPECT_EQ(error_of_reading("[train]\nbetas = [1, 'x']\n").legal, "list of numbers, 0 to 1");
  EXPECT_EQ(error_of_reading("[data]\nfiles = 'x'\n").what, "data.files = \"x\" is not a list of strings");
  EXPECT_EQ(error_of_reading("title = 2026-01-01\n").what, "title = 2026-01-01 is not a string");
  EXPECT_EQ(error_of_reading("[train.steps]\nx = 1\n").what, "train.steps = {...} is not an integer");
  EXPECT_EQ(error_of_reading("train = 5\n").what, "`train` is a table, not a key");
}

TEST(ReadToml, RejectsValuesOutOfRangeAndSaysTheRange) {
  EXPECT_EQ(error_of_reading("[train]\nsteps = 0\n").what, "train.steps = 0 is not a legal value");
  EXPECT_EQ(error_of_reading("[train]\nsteps = 0\n").legal, "integer, at least 1");
  EXPECT_EQ(error_of_reading("[train]\nsteps = 1\n").what, "no error");
  EXPECT_EQ(error_of_reading("[train]\nlearning_rate = 0.0\n").legal, "number, above 0");
  EXPECT_EQ(error_of_reading("[train]\nlearning_rate = inf\n").what, "train.learning_rate = inf is not a legal value");
  EXPECT_EQ(error_of_reading("[train]\nlearning_rate = nan\n").what, "train.learning_rate = nan is not a legal value");
  EXPECT_EQ(error_of_reading("[train.curve]\nfloor = 1\n").legal, "number, at least 0 and below 1");
  EXPECT_EQ(error_of_reading("[train]\nbetas = [0.9, 1.5]\n").legal, "list of numbers, 0 to 1");
  EXPECT_EQ(error_of_reading("[train]\nbetas = [0, 1]\n").what, "no error");
}

TEST(ReadToml, SuggestsTheNearestOfTheLegalNames) {
  const ErrorText error = error_of_reading("train.curve.shape = 'cosin'\n");
  EXPECT_EQ(error.what, "train.curve.shape = \"cosin\" is not a legal value");
  EXPECT_EQ(error.legal, "constant, cosine, linear");
  EXPECT_EQ(error.hint, "did you mean `cosine`?");
}

TEST(ReadToml, NamesTheLineOfWhatIsNotToml) {
  EXPECT_EQ(error_of_reading("[train]\nsteps = \n").where, "small.toml, line 2");
  EXPECT_EQ(error_of_reading("[train]\nsteps = 1\nsteps = 2\n").where, "small.toml, line 3");
  EXPECT_EQ(error_of_reading("steps 5").where, "small.toml, line 1");
  EXPECT_NE(error_of_reading("train.steps = 99999999999999999999\n").what, "no error");
}

TEST(ReadTomlFile, NamesTheFileThatItCannotRead) {
  TestConfig config;
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "tessera_config_test";
  std::filesystem::create_directories(folder);
  for (const auto& path : {folder / "absent.toml", folder}) {
    try {
      read_toml_file(path, config);
      FAIL() << path;
    } catch (const ConfigError& error) {
      EXPECT_NE(error.text().what.find("cannot read " + path.string() + ": "), std::string::npos) << error.what();
    }
  }
  ConfigSource source;
  std::ofstream(folder / "run.toml") << "title = 'from a file'\n";
  read_toml_file(folder / "run.toml", config, &source);
  EXPECT_EQ(config.title, "from a file");
  EXPECT_EQ(source.where_of("title"), (folder / "run.toml").string() + ", line 1");
  std::ofstream(folder / "empty.toml").flush();
  EXPECT_NO_THROW(read_toml_file(folder / "empty.toml", config));
}

TEST(ApplySet, TakesEveryTypeWithAndWithoutQuotes) {
  TestConfig config;
  for (const char* assignment : {"train.steps=7", "train.learning_rate = 1e-3", "train.resume=true", "title=two words",
                                 "train.betas=[0, 1]", "train.curve.shape=\"linear\"", "data.files=a.txt, b=c.txt"})
    apply_set(config, assignment);
  EXPECT_EQ(config.train.steps, 7);
  EXPECT_EQ(config.train.learning_rate, 1e-3);
  EXPECT_TRUE(config.train.resume);
  EXPECT_EQ(config.title, "two words");
  EXPECT_EQ(config.train.betas, (std::vector<double>{0, 1}));
  EXPECT_EQ(config.train.curve.shape, "linear");
  EXPECT_EQ(config.data.files, (std::vector<std::string>{"a.txt", "b=c.txt"}));
  apply_set(config, "data.files=['x, y']");
  EXPECT_EQ(config.data.files, (std::vector<std::string>{"x, y"}));
  apply_set(config, "data.files=");
  EXPECT_TRUE(config.data.files.empty());
  apply_set(config, "title=");
  EXPECT_EQ(config.title, "");
}

TEST(ApplySet, RejectsWhatAFileWouldReject) {
  EXPECT_EQ(error_of_setting("train.stpes=1").what, "unknown key `train.stpes`");
  EXPECT_EQ(error_of_setting("train.stpes=1").where, "--set");
  EXPECT_EQ(error_of_setting("train.stpes=1").hint, "did you mean `train.steps`?");
  EXPECT_EQ(error_of_setting("train.steps=many").what, "train.steps = many is not an integer");
  EXPECT_EQ(error_of_setting("train.steps=").what, "train.steps =  is not an integer");
  EXPECT_EQ(error_of_setting("train.steps=0").legal, "integer, at least 1");
  EXPECT_EQ(error_of_setting("train.curve.shape=cosin").hint, "did you mean `cosine`?");
  EXPECT_EQ(error_of_setting("train.steps").legal, "KEY=VALUE");
  EXPECT_EQ(error_of_setting("train=1").what, "`train` is a table, not a key");
  EXPECT_EQ(error_of_setting("train.steps=1\nvalue2=2").what, "train.steps = 1\nvalue2=2 is not an integer");
  EXPECT_NE(error_of_setting("title=\xff").what, "no error");  // not UTF-8: could not be written and read again
}

TEST(WriteToml, WritesEveryKeyUnderItsTable) {
  EXPECT_EQ(write_toml(TestConfig{}),
            "title = \"\"\n\n"
            "[train]\nsteps = 1000\nlearning_rate = 6e-04\nresume = false\nbetas = [0.9, 0.95]\n\n"
            "[train.curve]\nshape = \"cosine\"\nfloor = 0.1\n\n"
            "[data]\nfiles = []\n");
}

TEST(WriteToml, ReadsBackToTheSameBits) {
  TestConfig config;
  config.title = "quote \" backslash \\ tab \t line \n return \r bell \a delete \x7f umlaut \u00fc";
  config.data.files = {"", "a, b", "[c]", "'d'", "# e"};
  config.train.steps = (int64_t{1} << 62) + 1;
  config.train.resume = true;
  for (double rate :
       {0.1, 1.0, 1.0 / 3, 5e-324, 1.7976931348623157e308, 1e22, 123456789.0, 0x1.fffffffffffffp-1, std::nextafter(6e-4, 1)}) {
    config.train.learning_rate = rate;
    config.train.betas = {0.0, 0.1 + 0.2, rate < 1 ? rate : 1.0};
    TestConfig back;
    read_toml_text(write_toml(config), "written", back);
    EXPECT_EQ(back.train.learning_rate, rate);
    EXPECT_EQ(back.train.betas, config.train.betas);
    EXPECT_EQ(back.train.steps, config.train.steps);
    EXPECT_EQ(back.train.resume, config.train.resume);
    EXPECT_EQ(back.title, config.title);
    EXPECT_EQ(back.data.files, config.data.files);
    EXPECT_EQ(write_toml(back), write_toml(config));
  }
}

TEST(Differences, NameTheKeysWithBothValues) {
  TestConfig left, right;
  EXPECT_TRUE(differences(left, right).empty());
  right.train.steps = 7, right.title = "x";
  const std::vector<ConfigDifference> found = differences(left, right);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].key, "train.steps");
  EXPECT_EQ(found[0].left, "1000");
  EXPECT_EQ(found[0].right, "7");
  EXPECT_EQ(found[1].key, "title");
}

TEST(ListKeys, GivesKeyTypeDefaultLegalAndHelpInTheOrderOfDeclaration) {
  const std::vector<ConfigKey> keys = list_keys<TestConfig>();
  ASSERT_EQ(keys.size(), 8u);
  EXPECT_EQ(keys[0].key, "train.steps");
  EXPECT_EQ(keys[0].type, "integer");
  EXPECT_EQ(keys[0].default_text, "1000");
  EXPECT_EQ(keys[0].legal, "integer, at least 1");
  EXPECT_EQ(keys[0].help, "optimizer steps to run");
  EXPECT_EQ(keys[2].key, "train.curve.shape");
  EXPECT_EQ(keys[2].legal, "constant, cosine, linear");
  EXPECT_EQ(keys[4].legal, "true, false");
  EXPECT_EQ(keys[7].key, "title");
  EXPECT_EQ(keys[7].legal, "string");
}

struct IllegalDefault {
  int64_t steps = 0;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("steps", self.steps, at_least(1), "");
  }
};
struct TwiceTheSameKey {
  int64_t a = 0, b = 0;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("a", self.a, any(), "");
    visit("a", self.b, any(), "");
  }
};

TEST(ListKeys, FindsDefaultsThatAreNotLegalAndKeysThatStandTwice) {
  EXPECT_THROW(list_keys<IllegalDefault>(), InternalError);
  EXPECT_THROW(list_keys<TwiceTheSameKey>(), InternalError);
}

TEST(ParseToml, KeepsLinesOfNestedAndDottedKeys) {
  const auto entries = parse_toml("a.b = 1\n[c]\n  [c.d]\n  e = {f = 'g'}\n", "x");
  std::string text;
  for (const TomlEntry& entry : entries) text += entry.key + ":" + std::to_string(entry.line) + (entry.is_table ? "t " : " ");
  EXPECT_EQ(text, "a:1t a.b:1 c:2t c.d:3t c.d.e:4t c.d.e.f:4 ");
}

}  // namespace tessera
