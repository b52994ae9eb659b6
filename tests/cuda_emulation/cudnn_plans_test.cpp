// Whether cuDNN has kernels for our attention on GPUs that are described to it and not here. Its plans are made to the end, kernels compiled;
// nothing runs. Without cuDNN's library there is nothing to ask.
#include <gtest/gtest.h>

#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/cudnn_library.h"
#include "kernels/cuda/workspace.h"

namespace tessera::cuda {
namespace {

constexpr auto forward = OpKind::AttentionForward, backward = OpKind::AttentionBackward;

struct Gpu {
  const char* name;
  int compute_capability, multiprocessors;
  const char* most_shared_memory;  // of a block
};

/// As cuDNN writes a device down.
CudnnTarget target_of(const Gpu& gpu) {
  const std::string text =
      std::string(R"({"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "warpSize": 32, "maxSharedMemoryPerBlock": 49152, "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1, "cudaDeviceId": 0,
    "smClockRateKHz": 1500000, "memClockRateKHz": 2000000, "l2CacheSize": 41943040, "totalGlobalMem": 85899345920, "driverVer": 13000)") +
      R"(, "deviceName": ")" + gpu.name + R"(", "deviceVer": )" + std::to_string(10 * gpu.compute_capability) +
      R"(, "multiProcessorCount": )" + std::to_string(gpu.multiprocessors) + R"(, "maxSharedMemoryPerBlockOptin": )" +
      gpu.most_shared_memory + "}";
  return {.description = text, .compute_capability = gpu.compute_capability};
}

class CudnnPlans : public testing::TestWithParam<Gpu> {
 protected:
  void SetUp() override {
    if (!why_no_cudnn().empty()) GTEST_SKIP() << why_no_cudnn();
  }
  int64_t workspace() const { return cuda_workspace_bytes(GetParam().multiprocessors); }
  CudnnAttention attention{target_of(GetParam())};
};

TEST_P(CudnnPlans, AreThereForTheHeadsOfOurPresets) {
  // GPT-2 124M, Llama 7B, Llama 3 8B with shared keys, a length that no tile divides.
  const AttentionShape shapes[] = {{2, 1024, 12, 12, 64}, {1, 2048, 32, 32, 128}, {1, 1024, 32, 8, 128}, {3, 100, 4, 2, 64}};
  for (const AttentionShape& s : shapes) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      for (const OpKind kind : {forward, backward}) {
        // As much as it likes: whether ours is enough is another question.
        EXPECT_EQ(attention.why_not(kind, attention_shape(s, dtype), int64_t{1} << 34), "") << s.T << " " << s.A << " " << s.D;
      }
    }
  }
}

TEST_P(CudnnPlans, TakeAsManySequencesAtATimeAsTheWorkspaceHolds) {
  const ShapeKey shape = attention_shape({4, 1024, 12, 12, 64}, DType::bf16);
  EXPECT_EQ(attention.why_not(forward, shape, workspace()), "");
  EXPECT_EQ(attention.sequences_at_a_time(forward, shape), 4);
  EXPECT_EQ(attention.why_not(backward, shape, workspace()), "");  // T x T matrices of 12 heads: 25 MB a sequence
  EXPECT_EQ(attention.sequences_at_a_time(backward, shape), 1);
}

TEST_P(CudnnPlans, AreNotThereForFp32OrWithoutWorkspaceAndSayWhy) {
  EXPECT_EQ(attention.why_not(forward, attention_shape({1, 64, 2, 2, 64}, DType::f32), workspace()), "cuDNN's attention is for 16 bits");
  const ShapeKey shape = attention_shape({2, 1024, 12, 12, 64}, DType::bf16);
  EXPECT_EQ(attention.why_not(backward, shape, 1000), "its workspace is larger than ours");
  EXPECT_EQ(attention.sequences_at_a_time(backward, shape), 0);
  EXPECT_NE(attention.why_not(forward, attention_shape({1, 64, 2, 2, 12}, DType::bf16), workspace()), "");  // 24 bytes: no tile of 16
}

TEST_P(CudnnPlans, ForADescribedGpuAreNotEnqueued) {
  const AttentionShape s{1, 64, 2, 2, 64};
  ASSERT_EQ(attention.why_not(forward, attention_shape(s, DType::bf16), workspace()), "");
  const AttentionTensors none{.q = Tensor(nullptr, DType::bf16, {64, 128})};
  EXPECT_FALSE(attention.enqueue(forward, none, s, {}, nullptr));
}

INSTANTIATE_TEST_SUITE_P(Gpus, CudnnPlans, testing::Values(Gpu{"A100", 80, 108, "166912"}, Gpu{"H200", 90, 132, "232448"}),
                         [](const auto& gpu) { return gpu.param.name; });

}  // namespace
}  // namespace tessera::cuda
