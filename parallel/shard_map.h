#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/dtype.h"
#include "base/param_decl.h"
#include "base/precision.h"

namespace tessera {

/// Buckets start parameters, and shards begin and end, at multiples of this many elements.
constexpr int64_t shard_block_elements = 256;

/// Where gradients of a bucket are summed: over dp, or over dp and then with the other use of a tied weight.
enum class ReduceGroup : uint8_t { Dp, DpThenTied };

struct BucketKey {
  DType compute, gradient;
  ReduceGroup group;
  TpRole role;
  bool trainable;
  bool operator==(const BucketKey&) const = default;
};

/// A unit of the model (embedding, a block, the head) and its parameters.
struct UnitDecls {
  std::string name;
  std::vector<ParamDecl> decls;
};

/// The weight of a linear layer as its products see it: parameters that stand adjacent are one matrix [outputs, inputs].
struct LinearWeight {
  int decl, count;  // indices into UnitDecls::decls
  int64_t outputs, inputs;
};
std::vector<LinearWeight> linear_weights(const UnitDecls& unit);

/// A parameter's place in its bucket.
struct BucketEntry {
  int decl;        // index into UnitDecls::decls
  int64_t offset;  // elements from the start of the bucket
};

/// A flat run of memory: one dtype, one reduction group, one role. Entries start at multiples of 256 elements, except those declared
/// adjacent to their predecessor (fused weights); the gaps are zero for ever. Rank r of the dp group owns [bounds[r], bounds[r + 1]).
struct Bucket {
  int unit;
  BucketKey key;
  std::vector<BucketEntry> entries;
  int64_t elements;             // a multiple of 256
  std::vector<int64_t> bounds;  // dp + 1 element positions
};

/// A piece of one parameter in one rank's shard.
struct ShardRange {
  int decl;            // index into UnitDecls::decls
  int64_t begin, end;  // elements of the parameter
  int owner;           // dp coordinate
  int64_t offset;      // elements from the start of the bucket
};

/// What an optimizer may not have cut: runs of 256 elements (element-wise), a row (the last extent; a vector is one row), the whole tensor.
enum class Grain : uint8_t { Block, Row, Tensor };

/// The only code that knows who owns what. A function of declarations and the degree of dp alone: every rank computes the same map.
class ShardMap {
 public:
  using GrainOf = std::function<Grain(const ParamDecl&)>;
  /// `split_tied`: the pipeline is deeper than one chunk, so a tied weight and the one it repeats have storage and gradients of their own,
  /// each alone in a bucket of group DpThenTied with the same bounds. Otherwise parameters with tied_to have no storage.
  /// A unit's buckets come in order of the first appearance of their key in its declarations. Shards are as equal as legal cuts allow; with
  /// Grain::Block counts differ by at most 256. InternalError on a name given twice, and on tied_to with an unknown target or another shape.
  ShardMap(std::vector<UnitDecls> units, int dp, const Precision& precision, const GrainOf& grain_of, bool split_tied);

  const std::vector<UnitDecls>& units() const { return units_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }
  int dp() const { return dp_; }

  /// Where a parameter lies; bucket -1 when it has no storage (tied at depth one).
  struct Place {
    int unit, decl, bucket;
    int64_t offset;
  };
  /// InternalError for an unknown name.
  Place find(const std::string& name) const;
  const ParamDecl& decl(const Bucket& bucket, const BucketEntry& entry) const { return units_[bucket.unit].decls[entry.decl]; }
  /// The pieces of all parameters of a bucket, by offset, cut at the bounds; padding is skipped.
  std::vector<ShardRange> ranges(const Bucket& bucket) const;

 private:
  const ParamDecl& decl_of(const Place& place) const { return units_[place.unit].decls[place.decl]; }
  void give_storage(Place& place, const BucketKey& key);
  void cut(Bucket& bucket, const GrainOf& grain_of);

  std::vector<UnitDecls> units_;
  std::vector<Bucket> buckets_;
  std::unordered_map<std::string, Place> places_;  // by name
  int dp_;
};

}  // namespace tessera
