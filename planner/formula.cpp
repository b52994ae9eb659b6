#include "planner/formula.h"

#include <algorithm>

#include "model/decls.h"
#include "parallel/shard_map.h"

namespace tessera {

int64_t micro_batches_in_flight(const Layout& layout, int stage) {
  if (layout.schedule == "gpipe") return layout.micro_batches();
  return std::min<int64_t>(layout.micro_batches(), layout.degree(Axis::Pp) - stage);
}

namespace {

struct ModelBytes {
  double weights = 0, gradients = 0, states = 0, activations = 0;
};

ModelBytes paper_bytes(const ModelSpec& model, const Layout& layout, BatchShape batch, int64_t in_flight) {
  const double pp = layout.degree(Axis::Pp), dp = layout.zero >= 1 ? layout.degree(Axis::Dp) : 1;
  const double parameters = static_cast<double>(lecture_parameter_count(model)) / pp;
  const double s = static_cast<double>(batch.T), b = static_cast<double>(batch.B), h = static_cast<double>(model.hidden),
               a = static_cast<double>(model.heads);
  const double blocks = static_cast<double>(model.layers) / pp;
  return {4 * parameters, 4 * parameters, 8 * parameters / dp, s * b * h * (34 + 5 * a * s / h) * blocks * static_cast<double>(in_flight)};
}

ModelBytes formula_bytes(const ModelSpec& model, const Layout& layout, BatchShape batch, int64_t in_flight, const Coordinates& place) {
  const int pp = layout.degree(Axis::Pp), dp = layout.degree(Axis::Dp), replica = place[static_cast<int>(Axis::Dp)];
  const StageRange range = stage_range(model, place[static_cast<int>(Axis::Pp)], pp);
  const ShardMap map(
      declare_model(model), dp, {}, [](const ParamDecl&) { return Grain::Block; }, pp > 1);
  ModelBytes bytes;
  for (const Bucket& bucket : map.buckets()) {
    if (bucket.unit < range.first_unit() || bucket.unit >= range.last_unit()) continue;
    const int64_t updated = layout.zero >= 1 ? bucket.bounds[replica + 1] - bucket.bounds[replica] : bucket.elements;
    bytes.weights += 4.0 * static_cast<double>(bucket.elements);
    bytes.gradients += 4.0 * static_cast<double>(bucket.elements);
    bytes.states += 8.0 * static_cast<double>(updated);
  }
  const int64_t h = model.hidden, w = model.attention_width(), f = model.ffn, a = model.heads;
  const int64_t row =
      4 * (4 * h + 4 * w + 2 * f + 4) + 4 * a;  // h, n of two norms; q, k, v, attention; up, gelu; mean, rstd of two norms; lse
  const int64_t blocks = range.last_block - range.first_block;
  bytes.activations = static_cast<double>(in_flight * batch.rows() * (blocks * row + (range.last ? 4 * h : 0)));
  return bytes;
}

}  // namespace

MemoryTable predict_memory(const ModelSpec& model, const Layout& layout, BatchShape batch, int rank) {
  const Coordinates place = coordinates_of(layout, rank);
  const int64_t in_flight = micro_batches_in_flight(layout, place[static_cast<int>(Axis::Pp)]);
  const ModelBytes paper = paper_bytes(model, layout, batch, in_flight), formula = formula_bytes(model, layout, batch, in_flight, place);
  MemoryTable table;
  const auto add = [&](MemoryCategory category, double ModelBytes::*field) {
    table.add({.rank = rank,
               .space = MemorySpace::Device,
               .category = category,
               .paper_bytes = static_cast<int64_t>(paper.*field),
               .formula_bytes = static_cast<int64_t>(formula.*field)});
  };
  add(MemoryCategory::Weights, &ModelBytes::weights);
  add(MemoryCategory::Gradients, &ModelBytes::gradients);
  add(MemoryCategory::OptimizerStates, &ModelBytes::states);
  add(MemoryCategory::Activations, &ModelBytes::activations);
  return table;
}

}  // namespace tessera
