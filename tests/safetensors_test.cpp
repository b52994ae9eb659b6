#include "engine/safetensors.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>

#include "base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  Safetensors() {
    std::string name = (fs::temp_directory_path() / "tessera_safetensors_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ / "file.safetensors";
  }
  ~Safetensors() override { fs::remove_all(folder_); }

  std::string content() {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void put(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }
  /// A file of this header and so many bytes of data.
  void put(const std::string& header, size_t data_bytes) {
    const uint64_t length = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    put(bytes + header + std::string(data_bytes, 'd'));
  }
  /// What the error on opening says, or "" when the file opens.
  std::string refusal() {
    try {
      SafetensorsFile file(path_);
    } catch (const DataError& error) {
      EXPECT_EQ(error.text().where, path_.string());
      return error.text().what;
    }
    return "";
  }

  fs::path folder_, path_;
};

template <class T>
std::span<const std::byte> bytes_of_values(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

TEST_F(Safetensors, WhatIsWrittenIsReadBackByName) {
  const std::vector<double> wide = {1.5, -2.25, 1e300};
  const std::vector<float> matrix = {0, 1, 2, 3, 4, 5};
  const std::vector<uint16_t> half = {0x3f80};
  SafetensorsWriter writer(path_,
                           {{"wide", "F64", {3}}, {"a/matrix@0:2,0:3", "F32", {2, 3}}, {"scalar", "BF16", {}}, {"none", "I64", {0, 4}}});
  writer.write(bytes_of_values(wide).first(5));  // pieces need not end with a tensor
  writer.write(bytes_of_values(wide).subspan(5));
  writer.write(bytes_of_values(matrix));
  writer.write(bytes_of_values(half));
  writer.finish();
  EXPECT_FALSE(fs::exists(path_));
  writer.publish();

  const SafetensorsFile file(path_);
  EXPECT_EQ(file.bytes(), static_cast<int64_t>(fs::file_size(path_)));
  EXPECT_EQ(file.tensors().size(), 4u);
  ASSERT_NE(file.find("a/matrix@0:2,0:3"), nullptr);
  const SafetensorsTensor& found = *file.find("a/matrix@0:2,0:3");
  EXPECT_EQ(found.dtype, "F32");
  EXPECT_EQ(found.shape, (std::vector<int64_t>{2, 3}));
  std::vector<float> part(4);
  file.read(found, 4, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, (std::vector<float>{1, 2, 3, 4}));
  std::vector<uint16_t> bits(1);
  file.read(*file.find("scalar"), 0, std::as_writable_bytes(std::span(bits)));
  EXPECT_EQ(bits, half);
  EXPECT_EQ(file.find("none")->bytes(), 0);
  EXPECT_EQ(file.find("foreign"), nullptr);
  EXPECT_THROW(file.read(found, 12, std::as_writable_bytes(std::span(part))), InternalError);
}

TEST_F(Safetensors, TheBytesAreThoseOfTheFormat) {
  const std::vector<float> values = {1.0f, -2.0f};
  SafetensorsWriter writer(path_, {{"x", "F32", {2}}});
  writer.write(bytes_of_values(values));
  writer.finish();
  writer.publish();
  const std::string header = R"({"x":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}})";
  const size_t padded = (header.size() + 7) / 8 * 8;
  std::string expected(8, '\0');
  expected[0] = static_cast<char>(padded);
  expected += header + std::string(padded - header.size(), ' ') + std::string("\x00\x00\x80\x3f\x00\x00\x00\xc0", 8);
  EXPECT_EQ(content(), expected);
}

TEST_F(Safetensors, OurOwnMistakesAreInternalErrorsAndLeaveNoFile) {
  EXPECT_THROW(SafetensorsWriter(path_, {{"x", "F32", {2}}, {"x", "F32", {2}}}), InternalError);
  EXPECT_THROW(SafetensorsWriter(path_, {{"x", "fp32", {2}}}), InternalError);
  EXPECT_THROW(SafetensorsWriter(path_, {{"x", "F32", {2}}}).finish(), InternalError);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(Safetensors, AForeignFileWithMetadataInAnyOrderIsRead) {
  put(R"( {"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},"__metadata__":{"format":"pt"},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}  )",
      6);
  ASSERT_EQ(refusal(), "");
  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.find("b")->offset, 4);
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  put(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  const std::string whole = content();
  ASSERT_EQ(refusal(), "");
  for (size_t size = 0; size < whole.size(); size++) {
    put(whole.substr(0, size));
    EXPECT_NE(refusal(), "") << size << " of " << whole.size() << " bytes";
  }
  put(whole + "x");
  EXPECT_NE(refusal().find("too long"), std::string::npos);
}

TEST_F(Safetensors, AMissingFileAndAFolderAreDataErrors) {
  EXPECT_NE(refusal(), "");
  fs::create_directory(path_);
  EXPECT_NE(refusal(), "");
}

TEST_F(Safetensors, ForeignAndContradictoryHeadersAreRefusedNamingTheTensor) {
  const auto tensor = [](const std::string& text) { return R"({"tensor_a":{)" + text + "}}"; };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no safetensors"},
      {"[1, 2]", "no safetensors"},
      {"{\"a\": ", "no safetensors"},
      {R"({"tensor_a": 3})", "tensor_a"},
      {tensor(R"("dtype":"F32","shape":[2])"), "tensor_a"},
      {tensor(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), "unknown dtype"},
      {tensor(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), "unknown dtype"},
      {tensor(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), "shape"},
      {tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "shape"},
      {tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "shape"},
      {tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "offsets"},
      {tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "data_offsets"},
      {tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), "12"},
      {tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), "tensor_a"},
      {tensor(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615])"), "offsets"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), "gap"},
      {R"({"tensor_a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"tensor_b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}})",
       "within"},
      {R"({"tensor_a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"tensor_a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", "gap"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), "too long"},
      {tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"), "truncated"},
  };
  for (const auto& [header, expected] : cases) {
    put(header, 8);
    EXPECT_NE(refusal().find(expected), std::string::npos) << header << "\n" << refusal();
  }
}

TEST_F(Safetensors, AnAbsurdHeaderLengthIsRefusedWithoutTakingTheMemory) {
  put(std::string(8, '\x7f') + "{}");
  EXPECT_NE(refusal().find("no safetensors"), std::string::npos);
}

}  // namespace
}  // namespace tessera
