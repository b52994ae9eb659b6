#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/stream.h"
#include "kernels/tensor.h"

namespace tessera {

/// One send or receive of a batch. The buffer must stay as it is until the batch's event is reached.
struct P2p {
  enum class Kind : uint8_t { Send, Receive } kind;
  Tensor buffer;  // contiguous
  int peer;       // coordinate in the group
};

/// The data plane of one group of ranks: enqueues and never blocks the host. Every rank of the group makes the same calls in the
/// same order. A group of one is the identity: its calls return a reached event and its buffers alias.
/// Bounds: `size + 1` element positions; part r of a buffer is [bounds[r], bounds[r + 1]), counts may differ and may be 0.
class Comm {
 public:
  Comm(int rank, int size, WaitReason reason) : rank_(rank), size_(size), reason_(reason) {}
  virtual ~Comm() = default;
  Comm(const Comm&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// What waiting for this group's events is charged to.
  WaitReason reason() const { return reason_; }

  /// In place: part r of `whole` (flat, contiguous) travels from rank r to all.
  Event all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream);
  /// Part q of `full` travels to rank q; row r of `pieces` [size, own count] comes from rank r (the own row included).
  /// `full` must stay as it is until the event is reached.
  Event all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream);
  /// Sends and receives that start together; between one pair of ranks they match in order.
  Event p2p(std::span<const P2p> batch, Stream& stream);

 private:
  virtual Event do_all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream) = 0;
  virtual Event do_all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream) = 0;
  virtual Event do_p2p(std::span<const P2p> batch, Stream& stream) = 0;
  int rank_, size_;
  WaitReason reason_;
};

/// Groups of one rank.
std::unique_ptr<Comm> make_self_comm(WaitReason reason);
/// Any rank of a group of any size; everything is priced and traced, nothing moves.
std::unique_ptr<Comm> make_null_comm(int rank, int size, WaitReason reason);

}  // namespace tessera
