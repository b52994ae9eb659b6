#include "parallel/sharded_params.h"

#include <algorithm>
#include <set>

#include "base/convert.h"
#include "base/error.h"
#include "base/packed_weight.h"
#include "base/random.h"

namespace tessera {

Tensor fused(const std::vector<Tensor>& tensors, int first, int count) {
  const Tensor& head = tensors[first];
  int64_t rows = 0;
  for (int i = first; i < first + count; i++) {
    const char* expected = static_cast<const char*>(head.data) + rows * (head.elements() / head.shape[0]) * bytes_of(head.dtype);
    invariant(tensors[i].data == expected, "fused parameters are not adjacent in their bucket");
    rows += tensors[i].shape[0];
  }
  return head.shape.rank() == 1 ? Tensor(head.data, head.dtype, {rows}) : Tensor(head.data, head.dtype, {rows, head.shape[1]});
}

static LocalBucket take_bucket(const Bucket& bucket, const ShardMap& map, const Precision& precision, Mesh& mesh, Device& device) {
  const int dp = mesh.coordinate(Axis::Dp);
  const bool whole = mesh.layout().zero == 0;
  LocalBucket local{.bucket = &bucket,
                    .weights = device.arena().permanent(bucket.key.compute, {bucket.elements}, MemoryCategory::Weights),
                    .gradients = device.arena().permanent(bucket.key.gradient, {bucket.elements}, MemoryCategory::Gradients),
                    .master = {},
                    .master_is_weight = bucket.key.compute == precision.master,
                    .update_begin = whole ? 0 : bucket.bounds[dp],
                    .update_end = whole ? bucket.elements : bucket.bounds[dp + 1],
                    .owned_begin = bucket.bounds[dp],
                    .owned_end = bucket.bounds[dp + 1],
                    .counted = map.decl(bucket, bucket.entries.front()).tied_to.empty()};
  local.master = local.master_is_weight
                     ? local.weights.flat_range(local.update_begin, local.update_end)
                     : device.arena().permanent(precision.master, {local.update_end - local.update_begin}, MemoryCategory::MasterWeights);
  return local;
}

static std::vector<LocalBucket> take_buckets(const ShardMap& map, const Precision& precision, int first_unit, int last_unit, Mesh& mesh,
                                             Device& device) {
  std::vector<LocalBucket> buckets;
  for (const Bucket& bucket : map.buckets()) {
    if (bucket.unit >= first_unit && bucket.unit < last_unit) buckets.push_back(take_bucket(bucket, map, precision, mesh, device));
  }
  return buckets;
}

static PackedWeight take_packed(const LinearWeight& weight, Device& device) {
  const auto take = [&](int64_t depth, int64_t columns) {
    return device.arena().permanent(DType::bf16, {packed_elements(depth, columns)}, MemoryCategory::DerivedWeights);
  };
  return {.forward = take(weight.inputs, weight.outputs), .backward_input = take(weight.outputs, weight.inputs)};
}

ShardedParams::ShardedParams(const ShardMap& map, const Precision& precision, uint64_t seed, int first_unit, int last_unit, Mesh& mesh,
                             Device& device)
    : map_(map),
      seed_(seed),
      zero_(mesh.layout().zero),
      mesh_(mesh),
      matmul_(device.matmul()),
      update_(device.update()),
      first_unit_(first_unit),
      buckets_(take_buckets(map, precision, first_unit, last_unit, mesh, device)),
      exchange_(buckets_, mesh, device) {
  for (int unit = first_unit; unit < last_unit; unit++) {
    UnitView view;
    for (const ParamDecl& decl : map.units()[unit].decls) {
      ShardMap::Place place = map.find(decl.name);
      if (place.bucket < 0) place = map.find(decl.tied_to);
      const LocalBucket* local = find(place);
      invariant(local != nullptr, "a unit's parameter lies on another stage");
      const int64_t end = place.offset + decl.shape.elements();
      view.weights.push_back(local->weights.flat_range(place.offset, end).reshaped(decl.shape));
      view.gradients.push_back(local->gradients.flat_range(place.offset, end).reshaped(decl.shape));
      view.rounding.emplace_back(seed, RandomPurpose::Rounding, "gradient of " + decl.name);
    }
    view.packed.resize(view.weights.size());
    packed_.push_back(precision.packed_weights ? linear_weights(map.units()[unit]) : std::vector<LinearWeight>());
    for (const LinearWeight& weight : packed_.back()) view.packed[weight.decl] = take_packed(weight, device);
    views_.push_back(std::move(view));
  }
  std::set<const void*> written;  // what the backward, which runs from the last unit to the first, has reached before
  for (auto view = views_.rbegin(); view != views_.rend(); ++view) {
    for (const Tensor& gradient : view->gradients)
      view->first_write.push_back(written.insert(gradient.data).second ? GradientWrite::Overwrite : GradientWrite::Add);
  }
}

const LocalBucket* ShardedParams::find(const ShardMap::Place& place) const {
  if (place.bucket < 0) return nullptr;
  for (const LocalBucket& local : buckets_) {
    if (local.bucket == &map_.buckets()[place.bucket]) return &local;
  }
  return nullptr;
}

const UnitView& ShardedParams::gather(int unit, Stream& stream) {
  stream.set_unit(unit);
  return views_[unit - first_unit_];
}

void ShardedParams::release(int, Stream&) {}

void ShardedParams::reduce(Stream& stream) {
  // A tied weight's sum waits for the other end of the pipe, so it comes last.
  for (const ReduceGroup group : {ReduceGroup::Dp, ReduceGroup::DpThenTied}) {
    for (auto local = buckets_.rbegin(); local != buckets_.rend(); ++local) {
      if (local->bucket->key.group != group) continue;
      stream.set_unit(local->bucket->unit);
      exchange_.exchange(*local, zero_ == 0, stream);
    }
  }
}

void ShardedParams::add_norm(StepPartial* partial, const StepControl* control, Stream& stream) {
  for (const LocalBucket& local : buckets_) {
    stream.set_unit(local.bucket->unit);
    if (local.counted) update_.gradient_norm(partial, local.gradients.flat_range(local.owned_begin, local.owned_end), control, stream);
  }
}

void ShardedParams::gather_weights(Stream& stream) {
  if (zero_ > 0) {
    Comm& dp = mesh_.comm(Axis::Dp);
    for (const LocalBucket& local : buckets_) {
      stream.set_unit(local.bucket->unit);
      stream.wait(dp.all_gather(local.weights, local.bucket->bounds, stream), dp.reason());
    }
  }
  derive_weights(stream);
}

void ShardedParams::derive_weights(Stream& stream) {
  for (size_t i = 0; i < views_.size(); i++) {
    const UnitView& view = views_[i];
    stream.set_unit(first_unit_ + static_cast<int>(i));
    for (const LinearWeight& weight : packed_[i]) {
      const Tensor whole = fused(view.weights, weight.decl, weight.count);  // [outputs, inputs]
      matmul_.pack_weight(view.packed[weight.decl].forward, whole, PackedFor::Forward, stream);
      matmul_.pack_weight(view.packed[weight.decl].backward_input, whole, PackedFor::BackwardInput, stream);
    }
  }
  stream.set_unit(-1);
}

/// Elements [begin, begin + to.elements()) of `values`, in the type of `to`.
static void write_values(Tensor to, const std::vector<float>& values, int64_t begin, Device& device) {
  std::vector<std::byte> bytes(static_cast<size_t>(to.bytes()));
  convert(bytes.data(), to.dtype, values.data() + begin, DType::f32, to.elements());
  device.write(to, bytes.data(), to.bytes());
}

static std::vector<float> initial_values(const ParamDecl& decl, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(decl.shape.elements()), static_cast<float>(decl.init.value));
  if (decl.init.kind != Init::Kind::Normal) return values;
  const RandomStream random(seed, RandomPurpose::Init, decl.name);
  for (size_t i = 0; i < values.size(); i++) values[i] = random.normal(i) * static_cast<float>(decl.init.value);
  return values;
}

void ShardedParams::initialize(Device& device) {
  assign(
      [&](const std::string& name) {
        const ShardMap::Place place = map_.find(name);
        return initial_values(map_.units()[place.unit].decls[place.decl], seed_);
      },
      device);
}

void ShardedParams::assign(const ValuesOf& values_of, Device& device) {
  if (device.is_null()) return;
  for (const LocalBucket& local : buckets_) {
    for (const BucketEntry& entry : local.bucket->entries) {
      const ParamDecl& decl = map_.decl(*local.bucket, entry);
      const std::vector<float> values = values_of(decl.tied_to.empty() ? decl.name : decl.tied_to);
      const int64_t end = entry.offset + decl.shape.elements();
      write_values(local.weights.flat_range(entry.offset, end), values, 0, device);
      const int64_t from = std::max(entry.offset, local.update_begin), to = std::min(end, local.update_end);
      if (local.master_is_weight || from >= to) continue;
      write_values(local.master.flat_range(from - local.update_begin, to - local.update_begin), values, from - entry.offset, device);
    }
  }
  derive_weights(device.compute());
}

}  // namespace tessera
