#include "parallel/gradient_exchange.h"

#include <algorithm>
#include <array>

#include "parallel/sharded_params.h"

namespace tessera {

int64_t exchange_elements(const Bucket& bucket, int64_t owned, int dp, int tied_ranks) {
  const int64_t over_dp = dp > 1 ? dp * owned : 0;
  const int64_t over_tied = bucket.key.group == ReduceGroup::DpThenTied && tied_ranks > 1 ? tied_ranks * owned : 0;
  return std::max(over_dp, over_tied);
}

GradientExchange::GradientExchange(const std::vector<LocalBucket>& buckets, Mesh& mesh, Device& device)
    : mesh_(mesh), elementwise_(device.elementwise()) {
  int64_t elements = 0;
  for (const LocalBucket& local : buckets) {
    const int64_t owned = local.owned_end - local.owned_begin;
    elements = std::max(elements, exchange_elements(*local.bucket, owned, mesh.comm(Axis::Dp).size(), mesh.tied().size()));
  }
  if (mesh.comm(Axis::Dp).size() > 1 || mesh.tied().size() > 1)
    pieces_ = Ring(device.arena(), 1, buckets.front().gradients.dtype, {elements}, MemoryCategory::GradientBuckets);
}

void GradientExchange::exchange(const LocalBucket& local, bool gather, Stream& stream) {
  Comm& dp = mesh_.comm(Axis::Dp);
  const int64_t owned = local.owned_end - local.owned_begin;
  if (dp.size() > 1) {
    const Tensor pieces = pieces_[use_++].flat_range(0, dp.size() * owned).reshaped({dp.size(), owned});  // [dp, owned]
    stream.wait(dp.all_to_all(pieces, local.gradients, local.bucket->bounds, stream), dp.reason());
    elementwise_.ordered_sum(local.gradients.flat_range(local.owned_begin, local.owned_end), pieces, stream);
  }
  if (local.bucket->key.group == ReduceGroup::DpThenTied) sum_tied(local, stream);
  if (gather) stream.wait(dp.all_gather(local.gradients, local.bucket->bounds, stream), dp.reason());
}

void GradientExchange::sum_tied(const LocalBucket& local, Stream& stream) {
  Comm& tied = mesh_.tied();
  if (tied.size() == 1) return;
  const int64_t owned = local.owned_end - local.owned_begin;
  const Tensor pieces = pieces_[use_++].flat_range(0, 2 * owned).reshaped({2, owned});  // [first stage | last stage, owned]
  const Tensor sum = local.gradients.flat_range(local.owned_begin, local.owned_end);
  const int peer = 1 - tied.rank();
  const auto row = [&](int r) { return pieces.row_range(r, r + 1).flat(); };
  elementwise_.copy(row(tied.rank()), sum, stream);
  const std::array<P2p, 2> batch = {P2p{P2p::Kind::Send, row(tied.rank()), peer}, P2p{P2p::Kind::Receive, row(peer), peer}};
  stream.wait(tied.p2p(batch, stream), tied.reason());
  elementwise_.ordered_sum(sum, pieces, stream);
}

}  // namespace tessera
