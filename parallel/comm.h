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
  int peer;       // coordinate in the group, not the own one
};

/// The data plane of one group of ranks: enqueues and never blocks the host. Every rank of the group makes the same collective calls in
/// the same order. A group of one is the identity: its calls return a reached event, its buffers alias, and nothing is traced.
/// Bounds: `size + 1` element positions from 0 to the buffer's elements; part r is [bounds[r], bounds[r + 1]), counts may differ and may
/// be 0. Buffers belong to the call until its event is reached, and must outlive the communicator when nobody waits for it.
/// Throws InternalError on a wrong shape, CommError after HostGroup::abort. Traced with the bytes that this rank sends (read_bytes) and
/// receives (write_bytes); posting takes no time worth counting, what communication costs is the time inside Stream::wait.
class Comm {
 public:
  Comm(int rank, int size, WaitReason reason) : rank_(rank), size_(size), reason_(reason) {}
  virtual ~Comm() = default;
  Comm(const Comm&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// What waiting for this group's events is charged to.
  WaitReason reason() const { return reason_; }

  /// In place: part r of `whole` (flat, contiguous) travels from rank r to all.          Traced as {size, own count, elements}.
  Event all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream);
  /// Part q of `full` (flat, contiguous) travels to rank q; row r of `pieces` [size, own count] (contiguous) comes from rank r, the own row
  /// included. In a group of one `pieces` is `full`'s own memory.                        Traced as {size, own count, elements}.
  Event all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream);
  /// Sends and receives that start together; between one pair of ranks they match in order. Each is traced as {elements, peer}.
  Event p2p(std::span<const P2p> batch, Stream& stream);

  /// What a stream advances after each op because nobody else moves it (Stream::add_progress); nullptr when nothing is ever pending.
  virtual Pending* pending() { return nullptr; }

 private:
  /// Called with checked arguments and size >= 2.
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
