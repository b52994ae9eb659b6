#include "planner/formula.h"

#include <algorithm>

#include "base/packed_weight.h"
#include "model/decls.h"
#include "parallel/shard_map.h"

namespace tessera {

int64_t micro_batches_in_flight(const Layout& layout, int stage) {
  if (layout.schedule == "gpipe") return layout.micro_batches();
  return std::min<int64_t>(layout.micro_batches(), layout.degree(Axis::Pp) - stage);
}

namespace {

struct ModelBytes {
  double weights = 0, masters = 0, gradients = 0, states = 0, activations = 0, packed = 0;
};

/// Masters that are not the weights themselves.
bool has_masters(const Precision& precision) { return precision.master != precision.compute; }

/// Rajbhandari et al. 2020 for the parameters, Korthikanti et al. 2022 (arXiv:2205.05198, in bytes of 16-bit activations) for the rest.
ModelBytes paper_bytes(const MemoryQuestion& q, int64_t in_flight) {
  const ModelSpec& model = q.model;
  const Layout& layout = q.layout;
  const BatchShape batch = q.batch;
  const double pp = layout.degree(Axis::Pp), dp = layout.zero >= 1 ? layout.degree(Axis::Dp) : 1;
  const double parameters = static_cast<double>(lecture_parameter_count(model)) / pp;
  const double s = static_cast<double>(batch.T), b = static_cast<double>(batch.B), h = static_cast<double>(model.hidden),
               a = static_cast<double>(model.heads);
  const double blocks = static_cast<double>(model.layers) / pp;
  const auto bytes = [&](DType dtype) { return static_cast<double>(bytes_of(dtype)) * parameters; };
  return {.weights = bytes(q.precision.compute),
          .masters = has_masters(q.precision) ? bytes(q.precision.master) / dp : 0,
          .gradients = bytes(q.precision.gradient),
          .states = bytes(q.precision.moment) * static_cast<double>(q.states) / dp,
          .activations = s * b * h * (34 + 5 * a * s / h) * blocks * static_cast<double>(in_flight)};
}

/// What a block keeps of one token (docs/memory.md): h and n of two norms, q, k, v and the attention's output, the MLP's projection(s) and its
/// activation in the compute type; the norms' statistics and lse in fp32.
int64_t block_row_bytes(const MemoryQuestion& q) {
  const ModelSpec& m = q.model;
  const int64_t gated = m.is_llama() ? 1 : 0, statistics = m.is_llama() ? 1 : 2;
  const int64_t stored = 4 * m.hidden + 2 * m.attention_width() + 2 * m.kv_width() + (2 + gated) * m.ffn;
  return stored * bytes_of(q.precision.compute) + 4 * (2 * statistics + m.heads);
}

ModelBytes formula_bytes(const MemoryQuestion& q, int64_t in_flight, const Coordinates& place) {
  const ModelSpec& model = q.model;
  const Layout& layout = q.layout;
  const int pp = layout.degree(Axis::Pp), dp = layout.degree(Axis::Dp), replica = place[static_cast<int>(Axis::Dp)];
  const StageRange range = stage_range(model, place[static_cast<int>(Axis::Pp)], pp);
  const ShardMap map(
      declare_model(model), dp, q.precision, [](const ParamDecl&) { return Grain::Block; }, pp > 1);
  ModelBytes bytes;
  for (const Bucket& bucket : map.buckets()) {
    if (bucket.unit < range.first_unit() || bucket.unit >= range.last_unit()) continue;
    const int64_t updated = layout.zero >= 1 ? bucket.bounds[replica + 1] - bucket.bounds[replica] : bucket.elements;
    const auto bytes_in = [](int64_t elements, DType dtype) { return static_cast<double>(elements * bytes_of(dtype)); };
    bytes.weights += bytes_in(bucket.elements, q.precision.compute);
    bytes.masters += has_masters(q.precision) ? bytes_in(updated, q.precision.master) : 0;
    bytes.gradients += bytes_in(bucket.elements, q.precision.gradient);
    bytes.states += bytes_in(updated, q.precision.moment) * static_cast<double>(q.states);
  }
  for (int unit = range.first_unit(); q.precision.packed_weights && unit < range.last_unit(); unit++) {
    for (const LinearWeight& weight : linear_weights(map.units()[unit])) {
      const int64_t products = 2;  // forward and input gradient
      bytes.packed += static_cast<double>(products * packed_elements(weight.inputs, weight.outputs) * bytes_of(DType::bf16));
    }
  }
  bytes.activations = static_cast<double>(in_flight * q.batch.rows()) *
                      static_cast<double>((range.last_block - range.first_block) * block_row_bytes(q) +
                                          (range.last ? model.hidden * bytes_of(q.precision.compute) : 0));
  return bytes;
}

}  // namespace

MemoryTable predict_memory(const MemoryQuestion& question, int rank) {
  const Coordinates place = coordinates_of(question.layout, rank);
  const int64_t in_flight = micro_batches_in_flight(question.layout, place[static_cast<int>(Axis::Pp)]);
  const ModelBytes paper = paper_bytes(question, in_flight), formula = formula_bytes(question, in_flight, place);
  MemoryTable table;
  const auto add = [&](MemoryCategory category, double ModelBytes::*field) {
    table.add({.rank = rank,
               .space = MemorySpace::Device,
               .category = category,
               .paper_bytes = static_cast<int64_t>(paper.*field),
               .formula_bytes = static_cast<int64_t>(formula.*field)});
  };
  add(MemoryCategory::Weights, &ModelBytes::weights);
  if (has_masters(question.precision)) add(MemoryCategory::MasterWeights, &ModelBytes::masters);
  add(MemoryCategory::Gradients, &ModelBytes::gradients);
  if (question.states > 0) add(MemoryCategory::OptimizerStates, &ModelBytes::states);
  add(MemoryCategory::Activations, &ModelBytes::activations);
  if (question.precision.packed_weights) add(MemoryCategory::DerivedWeights, &ModelBytes::packed);
  if (question.workspace_bytes > 0) {
    table.add(
        {.rank = rank, .space = MemorySpace::Device, .category = MemoryCategory::Workspace, .formula_bytes = question.workspace_bytes});
  }
  return table;
}

}  // namespace tessera
