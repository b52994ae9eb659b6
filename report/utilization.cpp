#include "report/utilization.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"

namespace tessera {

static constexpr const char* recompute = "recompute";

std::optional<Convention> convention_of(std::string_view name) {
  for (int i = 0; i < conventions; i++) {
    if (name == name_of(static_cast<Convention>(i))) return static_cast<Convention>(i);
  }
  return std::nullopt;
}

static std::vector<FlopTerm> terms_of(Convention convention, const UtilizationInput& input) {
  // doubles: 72 L h^2 times the tokens of a step leaves 64 bits for the models that we count
  const double tokens = static_cast<double>(input.tokens_per_step), P = static_cast<double>(input.parameters);
  const double L = static_cast<double>(input.layers), h = static_cast<double>(input.hidden), V = static_cast<double>(input.vocab);
  const double HQ = static_cast<double>(input.heads * input.head_dim), T = static_cast<double>(input.sequence);
  const double N = static_cast<double>(input.matmul_parameters);
  switch (convention) {
    case Convention::Causal:
      return {{"parameters", "6 (N - h V)", 6 * (N - h * V) * tokens},
              {"attention", "6 L H Q T", 6 * L * HQ * T * tokens},
              {"head", "6 h V", 6 * h * V * tokens},
              {recompute, "as traced", input.recompute_flops}};
    case Convention::Palm:
      return {{"parameters", "6 N", 6 * P * tokens},
              {"attention", "12 L H Q T", 12 * L * HQ * T * tokens},
              {recompute, "as traced", input.recompute_flops}};
    case Convention::Megatron:
      return {{"parameters", "72 L h^2", 72 * L * h * h * tokens},
              {"attention", "12 L h T", 12 * L * h * T * tokens},
              {"head", "6 h V", 6 * h * V * tokens},
              {recompute, "24 L h^2 + 4 L h T", (24 * L * h * h + 4 * L * h * T) * tokens}};
    case Convention::Lecture:
      return {{"parameters", "6 P", 6 * P * tokens}, {recompute, "2 P", 2 * P * tokens}};
    case Convention::Count:
      break;
  }
  throw InternalError("no such convention of utilization");
}

UtilizationReceipt utilization(Convention convention, const UtilizationInput& input) {
  return {convention, terms_of(convention, input), input.seconds, input.devices, input.peak_flops, input.peak_name};
}

double UtilizationReceipt::model_flops() const {
  double sum = 0;
  for (const FlopTerm& term : terms) sum += term.name == recompute ? 0 : term.flops;
  return sum;
}

double UtilizationReceipt::hardware_flops() const {
  double sum = 0;
  for (const FlopTerm& term : terms) sum += term.flops;
  return sum;
}

static std::optional<double> share_of_peak(const UtilizationReceipt& receipt, double flops) {
  const double most = receipt.seconds * static_cast<double>(receipt.devices) * receipt.peak_flops;
  return most > 0 ? std::optional(flops / most) : std::nullopt;
}

std::optional<double> UtilizationReceipt::mfu() const { return share_of_peak(*this, model_flops()); }
std::optional<double> UtilizationReceipt::hfu() const { return share_of_peak(*this, hardware_flops()); }

static std::string flops_text(double flops) {
  const std::string count = format_count(flops);
  return count + (count.find(' ') == std::string::npos ? " FLOP" : "FLOP");  // "777 FLOP", "15.4 kFLOP"
}

std::string UtilizationReceipt::text() const {
  const auto share = [](std::optional<double> value) { return value ? fmt::format("{:.1f}%", 100 * *value) : std::string("unknown"); };
  std::string out = fmt::format("MFU {}, HFU {} ({})\n", share(mfu()), share(hfu()), name_of(convention));
  for (const FlopTerm& term : terms) {
    const double part = hardware_flops() > 0 ? 100 * term.flops / hardware_flops() : 0;
    out += fmt::format("  {:<11} {:<19} per token | {:>10} a step | {:5.1f}%\n", term.name, term.per_token, flops_text(term.flops), part);
  }
  const std::string places = devices == 1 ? "" : fmt::format(" x {} devices", devices);
  out += fmt::format("  {:<11} {}\n", "step", format_seconds(seconds));
  return out + fmt::format("  {:<11} {}{} ({})\n", "peak", format_rate(peak_flops, "FLOP"), places, peak_name);
}

void to_json(Json& json, const UtilizationReceipt& receipt) {
  const auto number = [](std::optional<double> value) { return value ? Json(*value) : Json(); };
  Json terms = Json::array();
  for (const FlopTerm& term : receipt.terms) terms.push_back({{"name", term.name}, {"per_token", term.per_token}, {"flops", term.flops}});
  json = {{"convention", name_of(receipt.convention)},
          {"terms", terms},
          {"model_flops", receipt.model_flops()},
          {"hardware_flops", receipt.hardware_flops()},
          {"seconds", receipt.seconds},
          {"devices", receipt.devices},
          {"peak_flops", receipt.peak_flops},
          {"peak_name", receipt.peak_name},
          {"mfu", number(receipt.mfu())},
          {"hfu", number(receipt.hfu())}};
}

void from_json(const Json& json, UtilizationReceipt& receipt) {
  const auto name = json.at("convention").get<std::string>();
  const auto convention = convention_of(name);
  if (!convention) throw DataError({"unknown convention of utilization \"" + name + "\"", {}, "causal, palm, megatron, lecture", {}});
  receipt = {*convention,
             {},
             json.at("seconds").get<double>(),
             json.at("devices").get<int64_t>(),
             json.at("peak_flops").get<double>(),
             json.at("peak_name").get<std::string>()};
  for (const Json& term : json.at("terms")) {
    receipt.terms.push_back({term.at("name").get<std::string>(), term.at("per_token").get<std::string>(), term.at("flops").get<double>()});
  }
}

std::optional<double> nominal_peak_flops(std::string_view device_name, DType compute) {
  // Whole names: "GH200" contains "H200", and a PCIe or NVL board of the same chip is slower.
  struct Peak {
    const char* name;
    double flops;
  };
  static constexpr Peak peaks[] = {
      {"A100", 312e12},           {"A100-SXM4-40GB", 312e12}, {"A100-SXM4-80GB", 312e12},   {"A100-PCIE-40GB", 312e12},
      {"A100 80GB PCIe", 312e12}, {"H100 SXM", 989.5e12},     {"H100 80GB HBM3", 989.5e12}, {"H200", 989.5e12}};
  if (compute != DType::bf16 && compute != DType::f16) return std::nullopt;
  constexpr std::string_view maker = "NVIDIA ";
  if (device_name.starts_with(maker)) device_name.remove_prefix(maker.size());
  for (const Peak& peak : peaks) {
    if (device_name == peak.name) return peak.flops;
  }
  return std::nullopt;
}

}  // namespace tessera
