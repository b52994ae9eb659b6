// NCCL behind the Comm interface: the communicator of ranks that have a GPU each.
#include "parallel/nccl/nccl_comm.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <ranges>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda_queue.h"

namespace tessera {
namespace {

using cuda::check;
using nccl::DataType;
using nccl::library;
using nccl::Link;

/// An ncclComm and the stream on which its work runs in order: of its own, because work of two communicators on one stream would wait for
/// each other in the order in which this rank has posted it, which need not be the peers'.
struct Lane {
  explicit Lane(std::string who) : link(std::move(who)) {}
  cudaStream_t native() { return cuda_stream(stream); }
  Stream stream{"nccl", false, std::make_unique<CudaQueue>()};
  Link link;  // ends first: work that no peer answers would hold up the stream
};

struct Lanes final : Abortable {
  void abort(const std::string& message) noexcept override {
    for (const auto& lane : all) lane->link.abort(message);
  }
  std::vector<std::unique_ptr<Lane>> all;
};

size_t bytes_of_part(const Tensor& part) { return static_cast<size_t>(part.bytes()); }

void send(const Tensor& part, int peer, Lane& lane, ncclComm* comm) {
  if (part.bytes() > 0) nccl::check(library().send(part.data, bytes_of_part(part), DataType::Uint8, peer, comm, lane.native()), "ncclSend");
}
void receive(const Tensor& part, int peer, Lane& lane, ncclComm* comm) {
  if (part.bytes() > 0)
    nccl::check(library().receive(part.data, bytes_of_part(part), DataType::Uint8, peer, comm, lane.native()), "ncclRecv");
}

/// A few bytes on the GPU.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) { check(cudaMalloc(&memory_, static_cast<size_t>(bytes)), "cudaMalloc for the first transfers"); }
  ~Scratch() { (void)cudaFree(memory_); }
  Scratch(const Scratch&) = delete;
  Tensor byte(int64_t i) const { return {static_cast<std::byte*>(memory_) + i, DType::u8, {1}}; }
  Tensor bytes(int64_t begin, int64_t end) const { return {static_cast<std::byte*>(memory_) + begin, DType::u8, {end - begin}}; }

 private:
  void* memory_ = nullptr;
};

class NcclComm final : public Comm {
 public:
  NcclComm(const NcclMember& member, std::shared_ptr<Lanes> lanes)
      : Comm(member.coordinate, static_cast<int>(member.ranks.size()), member.reason), lanes_(std::move(lanes)) {
    for (size_t i = 0; i < member.ids.size(); i++) {
      nccl::UniqueId id{};
      invariant(member.ids[i].size() == sizeof id, "an id of NCCL's has another size");
      std::memcpy(&id, member.ids[i].data(), sizeof id);
      lane(static_cast<int>(i)).link.open(id, rank(), size(), member.timeout_seconds);
    }
    connect();
  }

  ~NcclComm() override {
    if (std::uncaught_exceptions() > unwinding_) return;  // the lanes abort
    try {
      for (const auto& each : lanes_->all) {
        each->stream.finish();
        each->link.close();
      }
    } catch (const std::exception&) {  // released, or a peer is gone: the lanes abort
    }
  }

 private:
  Event do_all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream) override {
    Lane& only = begin(lane(0), stream);
    const auto part = [&](int r) { return whole.flat_range(bounds[r], bounds[r + 1]); };
    only.link.group("all_gather", [&](ncclComm* comm) {
      // In equal parts NCCL's own, which knows the way between machines.
      if (std::ranges::all_of(std::views::iota(0, size()), [&](int r) { return part(r).bytes() == part(0).bytes(); })) {
        const Tensor own = part(rank());
        if (own.bytes() == 0) return;
        nccl::check(library().all_gather(own.data, whole.data, bytes_of_part(own), DataType::Uint8, comm, only.native()), "ncclAllGather");
        return;
      }
      for (int peer = 0; peer < size(); peer++) {
        if (peer == rank()) continue;
        send(part(rank()), peer, only, comm);
        receive(part(peer), peer, only, comm);
      }
    });
    return only.stream.point();
  }

  Event do_all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream) override {
    Lane& only = begin(lane(0), stream);
    const int64_t own = bounds[rank() + 1] - bounds[rank()];
    const auto part = [&](int r) { return full.flat_range(bounds[r], bounds[r + 1]); };
    const auto row = [&](int r) { return pieces.flat().flat_range(r * own, (r + 1) * own); };
    if (own > 0) only.stream.copy_bytes(row(rank()).data, part(rank()).data, part(rank()).bytes());
    only.link.group("all_to_all", [&](ncclComm* comm) {
      for (int peer = 0; peer < size(); peer++) {
        if (peer == rank()) continue;
        send(part(peer), peer, only, comm);
        if (own > 0) receive(row(peer), peer, only, comm);
      }
    });
    return only.stream.point();
  }

  Event do_p2p(std::span<const P2p> batch, Stream& stream) override {
    Lane* last = nullptr;
    for (const auto& each : lanes_->all) {
      const auto here = [&](const P2p& transfer) { return &lane_of(transfer) == each.get(); };
      if (std::ranges::none_of(batch, here)) continue;
      begin(*each, stream);
      each->link.group("p2p", [&](ncclComm* comm) {
        for (const P2p& transfer : batch) {
          if (!here(transfer)) continue;
          transfer.kind == P2p::Kind::Send ? send(transfer.buffer, transfer.peer, *each, comm)
                                           : receive(transfer.buffer, transfer.peer, *each, comm);
        }
      });
      if (last) return both(*last, *each, stream);
      last = each.get();
    }
    return last->stream.point();
  }

  /// One event for two lanes; neither waits for the other.
  static Event both(Lane& first, Lane& second, Stream& stream) {
    Stream& meeting = stream.queue() ? stream.transfers() : second.stream;
    for (Stream* each : {&first.stream, &second.stream}) {
      const Event event = each->point();
      event.pending->join(event.ticket, *meeting.queue());
    }
    return meeting.point();
  }

  /// By the sender, so that what a rank sends and what its neighbours send do not wait for each other.
  Lane& lane_of(const P2p& transfer) {
    const int sender = transfer.kind == P2p::Kind::Send ? rank() : transfer.peer;
    return lane(sender % static_cast<int>(lanes_->all.size()));
  }
  Lane& lane(int i) { return *lanes_->all[static_cast<size_t>(i)]; }

  /// What comes on the lane runs after all that `stream` holds.
  static Lane& begin(Lane& lane, Stream& stream) {
    const Event posted = stream.point();
    if (posted.pending) posted.pending->join(posted.ticket, *lane.stream.queue());
    return lane;
  }

  /// NCCL connects two ranks at their first transfer, and that waits on the host for both. So it is made here, where all members are.
  void connect() {
    const Scratch scratch(3 * size());
    const Tensor whole = scratch.bytes(0, size());
    std::vector<P2p> neighbours;
    for (int peer = 0; peer < size(); peer++) {
      if (peer == rank() || (reason() == WaitReason::Pp && std::abs(peer - rank()) != 1)) continue;
      neighbours.push_back({P2p::Kind::Send, scratch.byte(size() + peer), peer});
      neighbours.push_back({P2p::Kind::Receive, scratch.byte(2 * size() + peer), peer});
    }
    Stream& stream = lane(0).stream;
    do_p2p(neighbours, stream);
    if (reason() != WaitReason::Pp) {
      std::vector<int64_t> bounds;
      for (int r = 0; r <= size(); r++) bounds.push_back(r);
      do_all_gather(whole, bounds, stream);
    }
    for (const auto& each : lanes_->all) each->stream.finish();
  }

  std::shared_ptr<Lanes> lanes_;
  const int unwinding_ = std::uncaught_exceptions();
};

class Module final : public NcclModule {
 public:
  std::string version(bool& usable) const override {
    usable = library().why_not.empty();
    if (!usable) return library().why_not;
    int number = 0;  // 22703
    nccl::check(library().get_version(&number), "ncclGetVersion");
    return fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
  }

  std::string unique_id() const override {
    nccl::UniqueId id{};
    nccl::check(library().get_unique_id(&id), "ncclGetUniqueId");
    return {id.internal, sizeof id.internal};
  }

  std::unique_ptr<Comm> make_comm(const NcclMember& member, const std::function<void(std::shared_ptr<Abortable>)>& keep) const override {
    check(cudaSetDevice(member.gpu), "cudaSetDevice");
    const auto lanes = std::make_shared<Lanes>();
    const std::string who = fmt::format("group {} on rank {}", member.name, member.ranks[static_cast<size_t>(member.coordinate)]);
    for (size_t i = 0; i < member.ids.size(); i++) lanes->all.push_back(std::make_unique<Lane>(who));
    keep(lanes);
    return std::make_unique<NcclComm>(member, lanes);
  }
};

}  // namespace
}  // namespace tessera

extern "C" const tessera::NcclModule* tessera_nccl_module() {
  static const tessera::Module module;  // without state
  return &module;
}
