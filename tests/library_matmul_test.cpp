// Which products go to oneDNN. ctest runs these and the matmul tests again with oneDNN held to AVX2 and to AVX-512 without bf16: CMakeLists.txt.
#include "kernels/cpu/library_matmul.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "kernels/matmul_ops.h"

namespace tessera {
namespace {

bool processor_has(const std::string& flag) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("flags")) return (line + ' ').find(' ' + flag + ' ') != std::string::npos;
  }
  return false;
}

TEST(MatmulLibrary, MultipliesBf16OnlyWhereItMayUseInstructionsForIt) {
  const char* held_to = std::getenv("ONEDNN_MAX_CPU_ISA");
  const LibraryMatmul library;
  EXPECT_EQ(library.multiplies_fast(DType::bf16), held_to == nullptr && processor_has("avx512_bf16"));
  EXPECT_TRUE(library.multiplies(DType::f32));
  EXPECT_FALSE(library.multiplies_fast(DType::f32)) << "sgemm is faster, as a rule";
  if (held_to != nullptr) {
    EXPECT_FALSE(library.multiplies(DType::f16));
  }
}

TEST(MatmulLibrary, SaysWhichVersionWasLoaded) { EXPECT_TRUE(matmul_library().starts_with("oneDNN ")) << matmul_library(); }

}  // namespace
}  // namespace tessera
