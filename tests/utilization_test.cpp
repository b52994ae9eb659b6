#include "report/utilization.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tessera {

/// A toy whose every term is told apart by its size. N - h V = 1000.
static UtilizationInput toy() {
  UtilizationInput input;
  input.parameters = 5000;
  input.matmul_parameters = 1000 + 8 * 100;
  input.layers = 2, input.hidden = 8, input.heads = 2, input.head_dim = 4, input.sequence = 16, input.vocab = 100;
  input.tokens_per_step = 10;
  input.recompute_flops = 777;
  input.seconds = 2;
  input.devices = 4;
  input.peak_flops = 1e6;
  input.peak_name = "toy";
  return input;
}

TEST(Utilization, EachConventionListsTheTermsOfItsFormula) {
  const auto flops = [](Convention convention) {
    std::vector<std::pair<std::string, double>> out;
    for (const FlopTerm& term : utilization(convention, toy()).terms) out.push_back({term.name, term.flops});
    return out;
  };
  using Terms = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(flops(Convention::Causal), (Terms{{"parameters", 60000}, {"attention", 15360}, {"head", 48000}, {"recompute", 777}}));
  EXPECT_EQ(flops(Convention::Palm), (Terms{{"parameters", 300000}, {"attention", 30720}, {"recompute", 777}}));
  EXPECT_EQ(flops(Convention::Megatron), (Terms{{"parameters", 92160}, {"attention", 30720}, {"head", 48000}, {"recompute", 40960}}));
  EXPECT_EQ(flops(Convention::Lecture), (Terms{{"parameters", 300000}, {"recompute", 100000}}));
}

TEST(Utilization, MfuLeavesRecomputationOutAndHfuCountsItIn) {
  const UtilizationReceipt receipt = utilization(Convention::Causal, toy());
  EXPECT_DOUBLE_EQ(*receipt.mfu(), 123360 / (2 * 4 * 1e6));
  EXPECT_DOUBLE_EQ(*receipt.hfu(), 124137 / (2 * 4 * 1e6));
}

TEST(Utilization, LectureIsEightTPOverNFt) {
  EXPECT_DOUBLE_EQ(*utilization(Convention::Lecture, toy()).hfu(), 8.0 * 10 * 5000 / (4 * 1e6 * 2));
}

TEST(Utilization, HasNoShareWithoutAPeakOrATime) {
  UtilizationInput no_peak = toy(), no_time = toy();
  no_peak.peak_flops = 0;
  no_time.seconds = 0;
  EXPECT_EQ(utilization(Convention::Causal, no_peak).mfu(), std::nullopt);
  EXPECT_EQ(utilization(Convention::Causal, no_time).hfu(), std::nullopt);
}

static UtilizationInput gpt(int64_t layers, int64_t hidden, int64_t batch, int64_t devices, double seconds) {
  UtilizationInput input;
  input.layers = layers, input.hidden = hidden, input.sequence = 2048, input.vocab = 51200;
  input.tokens_per_step = batch * input.sequence;
  input.devices = devices, input.seconds = seconds;
  input.peak_flops = *nominal_peak_flops("A100", DType::bf16);
  return input;
}

TEST(Utilization, MegatronEqualsTheClosedFormOfSc21) {  // arXiv:2104.04473, equation 3
  for (const auto& [L, h, B] : std::vector<std::array<double, 3>>{{24, 2304, 512}, {96, 12288, 1536}, {128, 25600, 3072}}) {
    const double S = 2048, V = 51200, closed = 96 * B * S * L * h * h * (1 + S / (6 * h) + V / (16 * L * h));
    const auto receipt = utilization(Convention::Megatron, gpt(int64_t(L), int64_t(h), int64_t(B), 1, 1));
    EXPECT_NEAR(receipt.hardware_flops() / closed, 1, 1e-12);
  }
}

TEST(Utilization, MegatronGivesThePublishedTflopsOfSc21) {
  // arXiv:2104.04473, Table 1: layers, hidden, batch, GPUs, TFLOP/s of a GPU, percent of peak. The seconds are those which the published
  // rate and equation 3 imply, rounded to 10 ms: so the rate must come back within that rounding, and the percentage within its own.
  struct Row {
    int64_t layers, hidden, batch, gpus;
    double seconds, tflops, percent;
  };
  for (const Row& row :
       {Row{24, 2304, 512, 32, 3.53, 137, 44}, Row{80, 12288, 2304, 1536, 24.82, 148, 47}, Row{128, 25600, 3072, 3072, 102.63, 163, 52}}) {
    const auto receipt = utilization(Convention::Megatron, gpt(row.layers, row.hidden, row.batch, row.gpus, row.seconds));
    const double tflops = receipt.hardware_flops() / row.seconds / static_cast<double>(row.gpus) / 1e12;
    EXPECT_NEAR(tflops, row.tflops, row.tflops * 0.005 / row.seconds + 1e-9) << row.layers << " layers";
    EXPECT_NEAR(100 * *receipt.hfu(), row.percent, 0.5) << row.layers << " layers";
  }
}

TEST(Utilization, MegatronWithoutRecomputationGivesThePublishedMfuOfMeasuredSteps) {
  // Korthikanti et al. 2022, arXiv:2205.05198, Table 5: iteration seconds measured with selective recomputation, and the MFU of each.
  struct Row {
    int64_t layers, hidden, batch, gpus;
    double seconds, percent;
  };
  for (const Row& row :
       {Row{96, 12288, 64, 64, 13.75, 51.4}, Row{105, 20480, 280, 280, 37.83, 56.0}, Row{128, 25600, 512, 512, 71.49, 56.3}}) {
    const auto receipt = utilization(Convention::Megatron, gpt(row.layers, row.hidden, row.batch, row.gpus, row.seconds));
    EXPECT_NEAR(100 * *receipt.mfu(), row.percent, 0.1) << row.layers << " layers";  // the rounding of both figures
  }
}

TEST(Utilization, PalmCountsGpt3AsItsAppendixDoes) {
  // arXiv:2204.02311, appendix B: per token 6 N + 12 L H Q T, here for GPT-3 175B with N = 175e9: attention adds 5.5%.
  UtilizationInput input = gpt(96, 12288, 1, 1, 1);
  input.parameters = 175'000'000'000, input.heads = 96, input.head_dim = 128;
  const double per_token = utilization(Convention::Palm, input).model_flops() / 2048;
  EXPECT_DOUBLE_EQ(per_token, 6 * 175e9 + 12.0 * 96 * 96 * 128 * 2048);
}

TEST(Utilization, TextListsEveryTermAndNamesThePeak) {
  EXPECT_EQ(utilization(Convention::Causal, toy()).text(),
            "MFU 1.5%, HFU 1.6% (causal)\n"
            "  parameters  6 (N - h V)         per token | 60.0 kFLOP a step |  48.3%\n"
            "  attention   6 L H Q T           per token | 15.4 kFLOP a step |  12.4%\n"
            "  head        6 h V               per token | 48.0 kFLOP a step |  38.7%\n"
            "  recompute   as traced           per token |   777 FLOP a step |   0.6%\n"
            "  step        2.00 s\n"
            "  peak        1.00 MFLOP/s x 4 devices (toy)\n");
}

TEST(Utilization, JsonReadsBackAsItWas) {
  for (int i = 0; i < conventions; i++) {
    const UtilizationReceipt receipt = utilization(static_cast<Convention>(i), toy());
    EXPECT_EQ(Json(receipt).get<UtilizationReceipt>(), receipt);
    EXPECT_EQ(Json(receipt).at("mfu").get<double>(), *receipt.mfu());
  }
}

TEST(Convention, NamesLeadBackToTheirConvention) {
  for (int i = 0; i < conventions; i++) EXPECT_EQ(convention_of(name_of(static_cast<Convention>(i))), static_cast<Convention>(i));
  EXPECT_EQ(convention_of("Causal"), std::nullopt);
}

TEST(NominalPeak, IsTheDenseFigureOfTheDataSheet) {
  EXPECT_EQ(nominal_peak_flops("NVIDIA A100-SXM4-80GB", DType::bf16), 312e12);
  EXPECT_EQ(nominal_peak_flops("NVIDIA H100 80GB HBM3", DType::f16), 989.5e12);
  EXPECT_EQ(nominal_peak_flops("NVIDIA H200", DType::bf16), 989.5e12);
}

TEST(NominalPeak, IsNeverGuessed) {
  for (const char* relative : {"NVIDIA GH200 480GB", "NVIDIA H200 NVL", "NVIDIA H100 PCIe", "NVIDIA H100 NVL",
                               "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A1000", "Intel(R) Xeon(R)", "NVIDIA ", ""}) {
    EXPECT_EQ(nominal_peak_flops(relative, DType::bf16), std::nullopt) << relative;
  }
  EXPECT_EQ(nominal_peak_flops("NVIDIA H200", DType::f32), std::nullopt);
}

}  // namespace tessera
