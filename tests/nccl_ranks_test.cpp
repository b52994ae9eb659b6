// What is NCCL's own: who may use it, work enqueued on queues, errors that come from elsewhere. Here in emulation (tests/cuda_emulation/).
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>

#include "base/error.h"
#include "kernels/device.h"
#include "parallel/mesh.h"
#include "parallel/nccl_group.h"
#include "tests/tiny_run.h"

namespace tessera {
namespace {

class NcclRanks : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::getenv("TESSERA_EMULATION_GPUS")) GTEST_SKIP() << "no GPU for each rank";
  }
};

Tensor flat(std::vector<float>& values) { return Tensor(values.data(), DType::f32, {std::ssize(values)}); }

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.text().what;
  }
  return "nothing was thrown";
}

TEST(NcclChoice, WithoutGpusThreadsAreTakenAndNcclIsRefusedWithTheReason) {
  run_thread_ranks(2, [](HostGroup& host) {
    EXPECT_EQ(make_nccl_group(host, -1, Communicator::Auto), nullptr);
    EXPECT_EQ(make_nccl_group(host, -1, Communicator::Threads), nullptr);
    EXPECT_EQ(message_of([&] { make_nccl_group(host, -1, Communicator::Nccl); }),
              "NCCL cannot be used: it connects GPUs, and this rank runs on none");
  });
}

TEST_F(NcclRanks, AreChosenWhereEachHasItsOwnGpu) {
  run_thread_ranks(3, [](HostGroup& host) {
    EXPECT_NE(make_nccl_group(host, host.rank(), Communicator::Auto), nullptr);
    EXPECT_EQ(make_nccl_group(host, host.rank() % 2, Communicator::Auto), nullptr);
    EXPECT_EQ(message_of([&] { make_nccl_group(host, host.rank() % 2, Communicator::Nccl); }),
              "NCCL cannot be used: ranks 0 and 2 share GPU 0, which NCCL refuses");
  });
}

/// NCCL has queues of its own; the copies of the threads are enqueued on the streams of transfers.
/// Two steps over threads and over NCCL.
void expect_same_training(const std::vector<std::string>& layout, int ranks) {
  const auto run = [&](const std::string& communicator) {
    TinyRun tiny{.sets = layout, .ranks = ranks, .device = DeviceKind::Cuda, .steps = 2};
    for (const char* set : {"model.layers=2", "model.heads=2", "model.hidden=16", "model.vocab=40", "model.context=8", "train.batch_size=4",
                            "train.micro_batch_size=1"}) {
      tiny.sets.emplace_back(set);
    }
    tiny.sets.push_back("parallel.communicator=" + communicator);
    return run_tiny(tiny);
  };
  const TinyResult threads = run("threads"), nccl = run("nccl");
  EXPECT_EQ(nccl.losses, threads.losses);
  EXPECT_EQ(nccl.weights, threads.weights);
  EXPECT_EQ(nccl.states, threads.states);
}

TEST_F(NcclRanks, TrainReplicasToTheBitsOfTheThreads) { expect_same_training({"parallel.dp=2"}, 2); }
TEST_F(NcclRanks, TrainShardsToTheBitsOfTheThreads) { expect_same_training({"parallel.dp=2", "parallel.zero=1"}, 2); }
TEST_F(NcclRanks, TrainAPipelineToTheBitsOfTheThreads) { expect_same_training({"parallel.pp=2"}, 2); }
TEST_F(NcclRanks, TrainReplicasOfAPipelineToTheBitsOfTheThreads) { expect_same_training({"parallel.pp=2", "parallel.dp=2"}, 4); }
/// Posted as the schedule may post: the receive of what a peer sends only after it has received something itself.
TEST_F(NcclRanks, ReceiveAheadOfWhatTheySendInAPipeline) {
  run_thread_ranks(
      3,
      [](HostGroup& host) {
        const auto nccl = make_nccl_group(host, host.rank(), Communicator::Nccl);
        Mesh mesh({.degrees = {3, 1, 1, 1}}, *nccl);
        Comm& pipe = mesh.pipe_forward();
        Stream stream("communication", true);
        const int p = pipe.rank();
        std::vector<float> first(4, -1), second(4, -1);
        const auto post = [&](P2p::Kind kind, std::vector<float>& buffer) {
          const P2p transfer{kind, flat(buffer), kind == P2p::Kind::Send ? p + 1 : p - 1};
          return pipe.p2p({&transfer, 1}, stream);
        };
        if (p == 0) {
          first.assign(4, 1), second.assign(4, 2);
          stream.wait(post(P2p::Kind::Send, first), pipe.reason());
          host.barrier(20);  // the last rank has the first
          stream.wait(post(P2p::Kind::Send, second), pipe.reason());
          return;
        }
        const Event one = post(P2p::Kind::Receive, first), two = post(P2p::Kind::Receive, second);
        stream.wait(one, pipe.reason());
        if (p == 1) stream.wait(post(P2p::Kind::Send, first), pipe.reason());
        host.barrier(20);
        stream.wait(two, pipe.reason());
        if (p == 1) stream.wait(post(P2p::Kind::Send, second), pipe.reason());
        EXPECT_EQ(first, std::vector<float>(4, 1));
        EXPECT_EQ(second, std::vector<float>(4, 2));
      },
      20);
}

TEST_F(NcclRanks, AreReleasedByAnotherRanksErrorFromAWaitThatNobodyAnswers) {
  const std::string message = message_of([] {
    run_thread_ranks(
        2,
        [](HostGroup& host) {
          const auto nccl = make_nccl_group(host, host.rank(), Communicator::Nccl);
          const auto comm = nccl->make_comm({0, 1}, "dp", WaitReason::Dp);
          if (host.rank() == 1) throw DataError({.what = "a file is gone"});
          Stream stream("communication", true);
          std::vector<float> whole(2);
          const std::vector<int64_t> bounds = {0, 1, 2};
          stream.wait(comm->all_gather(flat(whole), bounds, stream), comm->reason());  // ends, or this test never does
          const std::string next = message_of([&] { comm->all_gather(flat(whole), bounds, stream); });
          EXPECT_EQ(next, "all_gather of group dp on rank 0 was released: rank 1: a file is gone");
        },
        20);
  });
  EXPECT_EQ(message, "a file is gone");
}

TEST_F(NcclRanks, AreReleasedWhileACommunicatorIsBeingMade) {
  const std::string message = message_of([] {
    run_thread_ranks(
        2,
        [](HostGroup& host) {
          const auto nccl = make_nccl_group(host, host.rank(), Communicator::Nccl);
          if (host.rank() == 1) {
            host.gather({});  // where the ids travel
            throw DataError({.what = "a file is gone"});
          }
          nccl->make_comm({0, 1}, "dp", WaitReason::Dp);
        },
        20);
  });
  EXPECT_EQ(message, "a file is gone");
}

}  // namespace
}  // namespace tessera
