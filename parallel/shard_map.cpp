#include "parallel/shard_map.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "base/error.h"

namespace tessera {

std::vector<LinearWeight> linear_weights(const UnitDecls& unit) {
  std::vector<LinearWeight> weights;
  for (size_t i = 0; i < unit.decls.size(); i++) {
    const ParamDecl& decl = unit.decls[i];
    if (!decl.linear) continue;
    if (!decl.adjacent) weights.push_back({.decl = static_cast<int>(i), .count = 0, .outputs = 0, .inputs = decl.shape[1]});
    weights.back().count++;
    weights.back().outputs += decl.shape[0];
  }
  return weights;
}

namespace {

int64_t align_down(int64_t position) { return position / shard_block_elements * shard_block_elements; }
int64_t align_up(int64_t position) { return align_down(position + shard_block_elements - 1); }

/// The positions at which a bucket may be cut: multiples of 256 that split no grain.
class Cuts {
 public:
  /// A parameter at [begin, end) that may be cut inside only every `grain` elements.
  struct Span {
    int64_t begin, end, grain;
  };

  Cuts(std::vector<Span> spans, int64_t elements) : spans_(std::move(spans)), elements_(elements) {}

  /// For each of `dp` equal parts the nearest legal position to its end; the lower one of two equally near. Nearest is monotone.
  std::vector<int64_t> balanced(int64_t dp) const {
    std::vector<int64_t> bounds{0};
    for (int64_t r = 1; r < dp; r++) {
      const int64_t ideal = r * elements_;  // in parts of an element: dp to one
      const int64_t below = at_or_below(ideal / dp), above = at_or_above((ideal + dp - 1) / dp);
      bounds.push_back(ideal - below * dp <= above * dp - ideal ? below : above);
    }
    bounds.push_back(elements_);
    return bounds;
  }

 private:
  // A multiple of 256 between two spans is the begin of the second or the end of the bucket: padding is shorter than 256.
  int64_t at_or_below(int64_t position) const {
    for (position = align_down(position); position > 0;) {
      const Span* span = containing(position);
      if (!span) return position;
      int64_t cut = position - (position - span->begin) % span->grain;
      while (cut > span->begin && cut % shard_block_elements != 0) cut -= span->grain;  // at most 256 times
      if (cut % shard_block_elements == 0) return cut;
      position = align_down(cut);  // into the span before: only an adjacent one begins off a multiple of 256
    }
    return 0;
  }

  int64_t at_or_above(int64_t position) const {
    for (position = align_up(position); position < elements_;) {
      const Span* span = containing(position);
      if (!span) return position;
      int64_t cut = position + (span->grain - (position - span->begin) % span->grain) % span->grain;
      while (cut < span->end && cut % shard_block_elements != 0) cut += span->grain;
      if (cut % shard_block_elements == 0) return cut;
      position = align_up(span->end);
    }
    return elements_;
  }

  const Span* containing(int64_t position) const {
    const auto after = std::upper_bound(spans_.begin(), spans_.end(), position, [](int64_t p, const Span& span) { return p < span.begin; });
    if (after == spans_.begin()) return nullptr;
    const Span& span = *std::prev(after);
    return position < span.end ? &span : nullptr;
  }

  std::vector<Span> spans_;
  int64_t elements_;
};

int64_t grain_elements(Grain grain, const Shape& shape) {
  switch (grain) {
    case Grain::Block:
      return 1;  // any multiple of 256
    case Grain::Row:
      return shape.rank() ? std::max<int64_t>(1, shape[shape.rank() - 1]) : 1;
    case Grain::Tensor:
      return std::max<int64_t>(1, shape.elements());
  }
  throw InternalError("an unknown grain");
}

/// The bucket of `unit` for `key`, made where it is missing. A tied weight never shares one.
int bucket_for(std::vector<Bucket>& buckets, int unit, const BucketKey& key) {
  if (key.group == ReduceGroup::Dp)
    for (size_t b = buckets.size(); b-- > 0 && buckets[b].unit == unit;)
      if (buckets[b].key == key) return static_cast<int>(b);
  buckets.push_back({unit, key, {}, 0, {}});
  return static_cast<int>(buckets.size()) - 1;
}

}  // namespace

ShardMap::ShardMap(std::vector<UnitDecls> units, int dp, const Precision& precision, const GrainOf& grain_of, bool split_tied)
    : units_(std::move(units)), dp_(dp) {
  invariant(dp >= 1, "a shard map has at least one owner");
  for (size_t u = 0; u < units_.size(); u++)
    for (size_t d = 0; d < units_[u].decls.size(); d++) {
      const std::string& name = units_[u].decls[d].name;
      const bool fresh = places_.emplace(name, Place{static_cast<int>(u), static_cast<int>(d), -1, 0}).second;
      if (!fresh) throw InternalError("two parameters are named " + name);
    }

  std::unordered_set<std::string> repeated;  // the targets of tied_to
  for (const UnitDecls& unit : units_)
    for (const ParamDecl& decl : unit.decls) {
      if (decl.tied_to.empty()) continue;
      const ParamDecl& target = decl_of(find(decl.tied_to));
      if (!target.tied_to.empty() || !(target.shape == decl.shape))
        throw InternalError(decl.name + " " + decl.shape.text() + " cannot repeat " + target.name + " " + target.shape.text());
      repeated.insert(target.name);
    }

  for (size_t u = 0; u < units_.size(); u++)
    for (const ParamDecl& decl : units_[u].decls) {
      const bool repeats = !decl.tied_to.empty();
      if (repeats && !split_tied) continue;
      const bool tied = split_tied && (repeats || repeated.contains(decl.name));
      const ReduceGroup group = tied ? ReduceGroup::DpThenTied : ReduceGroup::Dp;
      give_storage(places_.at(decl.name), {precision.compute, precision.gradient, group, decl.role, decl.trainable});
    }
  for (Bucket& bucket : buckets_) cut(bucket, grain_of);
}

void ShardMap::give_storage(Place& place, const BucketKey& key) {
  const ParamDecl& decl = decl_of(place);
  place.bucket = bucket_for(buckets_, place.unit, key);
  Bucket& bucket = buckets_[place.bucket];
  if (decl.adjacent && bucket.entries.empty()) throw InternalError(decl.name + " is declared adjacent and is the first of its bucket");
  place.offset = decl.adjacent ? bucket.elements : align_up(bucket.elements);
  bucket.entries.push_back({place.decl, place.offset});
  bucket.elements = place.offset + decl.shape.elements();
}

void ShardMap::cut(Bucket& bucket, const GrainOf& grain_of) {
  std::vector<Cuts::Span> spans;
  for (const BucketEntry& entry : bucket.entries) {
    const ParamDecl& own = decl(bucket, entry);
    // A tied weight is cut as the one it repeats, so that the owners of both exchange equal shards.
    const Grain grain = grain_of(own.tied_to.empty() ? own : decl_of(find(own.tied_to)));
    spans.push_back({entry.offset, entry.offset + own.shape.elements(), grain_elements(grain, own.shape)});
  }
  bucket.elements = align_up(bucket.elements);
  bucket.bounds = Cuts(std::move(spans), bucket.elements).balanced(dp_);
}

ShardMap::Place ShardMap::find(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) throw InternalError("no parameter is named " + name);
  return found->second;
}

std::vector<ShardRange> ShardMap::ranges(const Bucket& bucket) const {
  std::vector<ShardRange> ranges;
  for (const BucketEntry& entry : bucket.entries) {
    const int64_t end = entry.offset + decl(bucket, entry).shape.elements();
    // The owner of a position is the last one whose shard begins at or before it: empty shards own nothing.
    const auto after = std::upper_bound(bucket.bounds.begin(), bucket.bounds.end() - 1, entry.offset);
    int owner = static_cast<int>(after - bucket.bounds.begin()) - 1;
    for (int64_t begin = entry.offset; begin < end; owner++) {
      const int64_t stop = std::min(end, bucket.bounds[owner + 1]);
      if (stop > begin) ranges.push_back({entry.decl, begin - entry.offset, stop - entry.offset, owner, begin});
      begin = std::max(begin, stop);
    }
  }
  return ranges;
}

}  // namespace tessera
