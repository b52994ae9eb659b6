#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "report/json_file.h"

namespace tessera {

/// How a step's FLOPs are counted. A multiply and an add are two; the backward counts twice the forward. FLOPs for each token, with
/// L layers, h hidden, H heads, Q head width, T sequence, V vocabulary (logical, without padding):
///
///   Causal    6 N + 6 L H Q T     N: the parameters that meet a token in a matmul (blocks and head, no look-ups, no norms). Attention is
///                                 counted as its causal half: what a kernel without wasted work computes. The default.
///   Palm      6 N + 12 L H Q T    N: all parameters, a tied weight once. Attention is counted as the full square.
///                                 Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
///   Megatron  96 L h^2 (1 + T / 6h + V / 16 L h)
///                                 72 L h^2 blocks, 12 L h T attention (full square), 6 h V head, and the forward of the blocks once more:
///                                 24 L h^2 + 4 L h T, whatever the run recomputes. Holds for an MLP four times as wide and H Q = h.
///                                 Narayanan et al. 2021 (SC21), arXiv:2104.04473, equation 3, there for B sequences of S tokens.
///   Lecture   8 P                 P: all parameters; 6 P, and the forward once more, 2 P. No attention. The share of the peak is
///                                 8 T P / (N F t) with T tokens in t seconds on N devices of F FLOP/s.
///
/// mfu() leaves recomputation out and hfu() counts it in. SC21 and the lecture quote the latter, PaLM the former.
enum class Convention : uint8_t { Causal, Palm, Megatron, Lecture, Count };
constexpr int conventions = static_cast<int>(Convention::Count);

/// Names of configuration files and JSON: "causal", "palm", "megatron", "lecture".
constexpr const char* name_of(Convention convention) {
  constexpr std::array<const char*, conventions> names = {"causal", "palm", "megatron", "lecture"};
  return names[static_cast<int>(convention)];
}
std::optional<Convention> convention_of(std::string_view name);

/// What every convention draws from. Sizes are those of the whole model, tokens and FLOPs those of all ranks together.
struct UtilizationInput {
  int64_t parameters = 0;         // all, a tied weight once
  int64_t matmul_parameters = 0;  // weights that meet a token in a matmul: linear layers and head (tied or not); no biases
  int64_t layers = 0, hidden = 0, heads = 0, head_dim = 0, sequence = 0, vocab = 0;
  int64_t tokens_per_step = 0;
  double recompute_flops = 0;  // of one step, as the run's trace counts them; Megatron and Lecture use their own figure
  double seconds = 0;          // of one step
  int64_t devices = 1;
  double peak_flops = 0;  // FLOP/s of one device
  std::string peak_name;  // where the peak is from: "nominal, NVIDIA H200, dense bf16", "measured matmul, fp32, 2 threads"
};

/// One summand of the formula.
struct FlopTerm {
  std::string name;       // "parameters", "attention", "head", "recompute"
  std::string per_token;  // its formula: "6 L H Q T"
  double flops = 0;       // of one step over all ranks
  bool operator==(const FlopTerm&) const = default;
};

/// Utilization with all that it was computed from, so that nobody has to ask which formula was meant.
struct UtilizationReceipt {
  Convention convention = Convention::Causal;
  std::vector<FlopTerm> terms;
  double seconds = 0;
  int64_t devices = 1;
  double peak_flops = 0;
  std::string peak_name;

  double model_flops() const;     // of one step: every term but "recompute"
  double hardware_flops() const;  // every term
  /// Shares of the peak of all devices. No value without a peak or a time.
  std::optional<double> mfu() const;
  std::optional<double> hfu() const;
  /// One line for each term, the time, the peak and the two shares.
  std::string text() const;
  bool operator==(const UtilizationReceipt&) const = default;
};

UtilizationReceipt utilization(Convention convention, const UtilizationInput& input);

/// Keys: convention, terms [{name, per_token, flops}], model_flops, hardware_flops, seconds, devices, peak_flops, peak_name, mfu, hfu.
void to_json(Json& json, const UtilizationReceipt& receipt);
void from_json(const Json& json, UtilizationReceipt& receipt);

/// Dense matmul peak in FLOP/s as the manufacturer states it, never the figure for sparse matrices. bf16 and fp16: A100 312e12 (NVIDIA A100
/// data sheet), H100 SXM and H200 989.5e12 (H100 and H200 data sheets: half of 1979 with sparsity). `device_name` is the name that the
/// driver gives ("NVIDIA H200") or the short one ("A100", "H100 SXM", "H200"). No value for any other device or dtype, relatives of these
/// included (H100 PCIe, H200 NVL, GH200, a MIG slice): a peak is never guessed.
std::optional<double> nominal_peak_flops(std::string_view device_name, DType compute);

}  // namespace tessera
