// Thread ranks whose devices work as late as they may: what a wait does not order, comes too late.
#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "parallel/host_group.h"
#include "tests/lazy_queue.h"

namespace tessera {
namespace {

/// One rank's compute stream and its stream of transfers.
struct Streams {
  Streams() { compute.set_transfers(transfers); }
  void finish() { compute.finish(), transfers.finish(); }
  Stream transfers{"communication", true, std::make_unique<LazyQueue>()}, compute{"compute", true, std::make_unique<LazyQueue>()};
};

void on_ranks(int ranks, const std::function<void(HostGroup&, Comm&, Streams&)>& body) {
  run_thread_ranks(
      ranks,
      [&](HostGroup& host) {
        std::vector<int> everyone(host.size());
        std::iota(everyone.begin(), everyone.end(), 0);
        Streams streams;
        const auto comm = host.make_comm(everyone, "test", WaitReason::Dp);
        body(host, *comm, streams);
        host.barrier();  // queues of other ranks may still run ours
        streams.finish();
        host.barrier();
      },
      60);
}

Tensor flat(std::vector<float>& values) { return Tensor(values.data(), DType::f32, {std::ssize(values)}); }
void enqueue_copy(Stream& stream, std::vector<float>& to, const std::vector<float>& from) {
  stream.copy_bytes(to.data(), from.data(), 4 * std::ssize(from));
}

TEST(QueuedCommRanks, GatherWhatTheSendersQueueWritesBeforeAndNotWhatItWritesAfter) {
  on_ranks(3, [](HostGroup& host, Comm& comm, Streams& streams) {
    const auto rank = static_cast<size_t>(comm.rank());
    const std::vector<int64_t> bounds = {0, 2, 4, 6};
    std::vector<float> whole(6, -1), own(2, 1.0f + static_cast<float>(rank)), later(6, 99), result(6, -2);
    streams.compute.copy_bytes(whole.data() + 2 * rank, own.data(), 8);
    streams.compute.wait(comm.all_gather(flat(whole), bounds, streams.compute), comm.reason());
    enqueue_copy(streams.compute, result, whole);
    enqueue_copy(streams.compute, whole, later);  // its part has been read by then
    host.barrier();                               // all is enqueued
    if (rank == 0) streams.compute.finish();      // and one rank's queue runs ahead as far as it may
    host.barrier();
    streams.compute.finish();
    EXPECT_EQ(result, (std::vector<float>{1, 1, 2, 2, 3, 3})) << "rank " << rank;
  });
}

TEST(QueuedCommRanks, ReceiveIntoABufferOnlyWhenItsLastReaderHasRun) {
  on_ranks(2, [](HostGroup&, Comm& comm, Streams& streams) {
    std::vector<float> buffer(4, 1), seen(4, -1), sent(4, 7);
    if (comm.rank() == 0) {
      enqueue_copy(streams.compute, seen, buffer);  // what stood there before
      const P2p receive{P2p::Kind::Receive, flat(buffer), 1};
      streams.compute.wait(comm.p2p({&receive, 1}, streams.compute), comm.reason());
      streams.transfers.finish();
      EXPECT_EQ(seen, std::vector<float>(4, 1)) << "the transfer ran behind the copy";
      streams.compute.finish();
      EXPECT_EQ(buffer, sent);
    } else {
      const P2p send{P2p::Kind::Send, flat(sent), 0};
      streams.compute.wait(comm.p2p({&send, 1}, streams.compute), comm.reason());
      streams.compute.finish();
    }
  });
}

TEST(QueuedCommRanks, ExchangeTheOwnPieceInOrderToo) {
  on_ranks(2, [](HostGroup&, Comm& comm, Streams& streams) {
    const float mine = 10.0f * static_cast<float>(comm.rank() + 1);
    const std::vector<int64_t> bounds = {0, 1, 2};
    std::vector<float> values = {mine, mine + 1}, full(2, -1), pieces(2, -1), result(2, -2);
    enqueue_copy(streams.compute, full, values);
    const Tensor rows(pieces.data(), DType::f32, {2, 1});
    streams.compute.wait(comm.all_to_all(rows, flat(full), bounds, streams.compute), comm.reason());
    enqueue_copy(streams.compute, result, pieces);
    streams.compute.finish();
    const float part = static_cast<float>(comm.rank());
    EXPECT_EQ(result, (std::vector<float>{10 + part, 20 + part}));
  });
}

}  // namespace
}  // namespace tessera
