#pragma once
#include <vector>

#include "kernels/device.h"
#include "parallel/mesh.h"
#include "parallel/shard_map.h"

namespace tessera {

struct LocalBucket;

/// The exact sum over ranks: the pieces travel in the gradient's type, the owner adds them in rank order in fp32 and
/// rounds the sum once, to nearest; then a tied weight's two sums meet, embedding
/// first. So the result does not depend on a library's reduction tree, on ZeRO or on the schedule.
class GradientExchange {
 public:
  /// Takes the ring through which pieces of `buckets` travel: the largest bucket's (or one tied shard twice), category GradientBuckets.
  GradientExchange(const std::vector<LocalBucket>& buckets, Mesh& mesh, Device& device);
  /// The owned range of the bucket's gradients becomes the sum over the group; with `gather` all of it does.
  void exchange(const LocalBucket& bucket, bool gather, Stream& stream);

 private:
  void sum_tied(const LocalBucket& bucket, Stream& stream);
  Mesh& mesh_;
  ElementwiseOps& elementwise_;
  Ring pieces_;
  int64_t use_ = 0;
};

/// Elements of the ring entry that `bucket` needs on a rank that owns `owned` elements of it; 0 when nothing travels.
int64_t exchange_elements(const Bucket& bucket, int64_t owned, int dp, int tied_ranks);

}  // namespace tessera
