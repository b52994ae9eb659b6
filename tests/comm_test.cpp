#include "parallel/comm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "parallel/host_group.h"
#include "parallel/nccl_group.h"

namespace tessera {

namespace {

/// What rank r writes at position i of a buffer in round `round`: exact in fp32, different everywhere.
float value(int rank, int64_t i, int round = 0) { return static_cast<float>(round * 100000 + rank * 1000 + i); }

Tensor flat(std::vector<float>& data) { return Tensor(data.data(), DType::f32, {static_cast<int64_t>(data.size())}); }

/// Starts of parts whose counts differ; every third part is empty, and with it the first.
std::vector<int64_t> uneven_bounds(int size) {
  std::vector<int64_t> bounds = {0};
  for (int r = 0; r < size; r++) bounds.push_back(bounds.back() + (size > 1 && r % 3 == 0 ? 0 : 3 + 2 * r));
  return bounds;
}

enum class Kind { Self, Threads, Null, Nccl };

struct Case {
  Kind kind;
  int ranks;
};

/// The contract: every test runs on groups of every kind; values are checked wherever something moves.
class CommRanks : public testing::TestWithParam<Case> {
 protected:
  using Body = std::function<void(Comm&, Stream&)>;
  void run(const Body& body) const {
    const auto [kind, ranks] = GetParam();
    if (kind == Kind::Nccl) {
      run_thread_ranks(
          ranks,
          [&](HostGroup& host) {
            const auto nccl = make_nccl_group(host, host.rank(), Communicator::Nccl);
            on(*nccl, body);
          },
          60);
      return;
    }
    if (kind == Kind::Threads) {
      run_thread_ranks(
          ranks, [&](HostGroup& host) { on(host, body); }, 60);
      return;
    }
    for (int rank = 0; rank < ranks; rank++) on(kind == Kind::Self ? *make_self_group() : *make_null_group(rank, ranks), body);
  }
  /// NCCL's ranks need a GPU each: in emulation there are some (TESSERA_EMULATION_GPUS), and a library to go with them (TESSERA_NCCL).
  void SetUp() override {
    const auto [kind, ranks] = GetParam();
    if (kind != Kind::Nccl) return;
    if (!std::getenv("TESSERA_EMULATION_GPUS")) GTEST_SKIP() << "no GPU for each rank";
  }
  bool moves() const { return GetParam().kind != Kind::Null; }
  int ranks() const { return GetParam().ranks; }

 private:
  static void on(HostGroup& host, const Body& body) {
    std::vector<int> everyone(host.size());
    std::iota(everyone.begin(), everyone.end(), 0);
    const auto comm = host.make_comm(everyone, "test", WaitReason::Dp);
    Stream stream("communication", true);
    body(*comm, stream);
  }
};

}  // namespace

TEST_P(CommRanks, KnowTheirPlaceAndWhatWaitingIsChargedTo) {
  std::mutex mutex;
  std::vector<int> seen;
  run([&](Comm& comm, Stream&) {
    EXPECT_EQ(comm.size(), ranks());
    EXPECT_EQ(comm.reason(), WaitReason::Dp);
    const std::lock_guard lock(mutex);
    seen.push_back(comm.rank());
  });
  std::ranges::sort(seen);
  for (int rank = 0; rank < ranks(); rank++) EXPECT_EQ(seen[rank], rank);
}

TEST_P(CommRanks, GatherPartsOfUnequalAndZeroCounts) {
  run([&](Comm& comm, Stream& stream) {
    const auto bounds = uneven_bounds(comm.size());
    std::vector<float> whole(bounds.back(), -1);
    for (int64_t i = bounds[comm.rank()]; i < bounds[comm.rank() + 1]; i++) whole[i] = value(comm.rank(), i);
    stream.wait(comm.all_gather(flat(whole), bounds, stream), comm.reason());
    for (int r = 0; r < comm.size() && moves(); r++) {
      for (int64_t i = bounds[r]; i < bounds[r + 1]; i++) EXPECT_EQ(whole[i], value(r, i)) << "part " << r << " on rank " << comm.rank();
    }
  });
}

TEST_P(CommRanks, ExchangePartsOfUnequalAndZeroCounts) {
  run([&](Comm& comm, Stream& stream) {
    const auto bounds = uneven_bounds(comm.size());
    const int64_t begin = bounds[comm.rank()], own = bounds[comm.rank() + 1] - begin;
    std::vector<float> full(bounds.back()), storage(comm.size() * own, -1);
    for (int64_t i = 0; i < bounds.back(); i++) full[i] = value(comm.rank(), i);
    const Tensor pieces(comm.size() == 1 ? full.data() : storage.data(), DType::f32, {comm.size(), own});
    stream.wait(comm.all_to_all(pieces, flat(full), bounds, stream), comm.reason());
    for (int64_t i = 0; i < bounds.back(); i++) EXPECT_EQ(full[i], value(comm.rank(), i));
    for (int r = 0; r < comm.size() && moves(); r++) {
      for (int64_t i = 0; i < own; i++) EXPECT_EQ(pieces.as<float>()[r * own + i], value(r, begin + i)) << "row " << r;
    }
  });
}

TEST_P(CommRanks, SendAroundARing) {
  run([&](Comm& comm, Stream& stream) {
    if (comm.size() == 1) return;
    const int next = (comm.rank() + 1) % comm.size(), previous = (comm.rank() + comm.size() - 1) % comm.size();
    std::vector<float> out(5, value(comm.rank(), 0)), in(5, -1);
    const std::vector<P2p> batch = {{P2p::Kind::Send, flat(out), next}, {P2p::Kind::Receive, flat(in), previous}};
    stream.wait(comm.p2p(batch, stream), comm.reason());
    if (moves()) {
      EXPECT_EQ(in, std::vector<float>(5, value(previous, 0)));
    }
  });
}

TEST_P(CommRanks, MatchTransfersBetweenAPairInOrder) {
  run([&](Comm& comm, Stream& stream) {
    if (comm.size() == 1 || comm.rank() > 1) return;
    constexpr int transfers = 20;
    std::vector<std::vector<float>> buffers;
    std::vector<Event> events;
    for (int t = 0; t < transfers; t++) buffers.emplace_back(1 + t, comm.rank() == 0 ? value(0, t) : -1.0f);
    for (int t = 0; t < transfers; t += 2) {
      const auto kind = comm.rank() == 0 ? P2p::Kind::Send : P2p::Kind::Receive;
      events.push_back(
          comm.p2p(std::vector<P2p>{{kind, flat(buffers[t]), 1 - comm.rank()}, {kind, flat(buffers[t + 1]), 1 - comm.rank()}}, stream));
    }
    for (auto event = events.rbegin(); event != events.rend(); ++event) stream.wait(*event, comm.reason());
    for (int t = 0; t < transfers && moves(); t++) EXPECT_EQ(buffers[t], std::vector<float>(1 + t, value(0, t)));
  });
}

TEST_P(CommRanks, TurnActivationsAndGradientsInBothDirectionsAtOnce) {
  run([&](Comm& comm, Stream& stream) {  // a pipeline: activations go up, gradients come back, one batch per step and neighbour
    const int p = comm.rank(), last = comm.size() - 1;
    constexpr int steps = 8;
    for (int step = 0; step < steps; step++) {
      std::vector<float> act_out(7, value(p, 1, step)), act_in(7, -1), grad_out(3, value(p, 2, step)), grad_in(3, -1);
      std::vector<P2p> up, down;
      if (p < last) up = {{P2p::Kind::Send, flat(act_out), p + 1}, {P2p::Kind::Receive, flat(grad_in), p + 1}};
      if (p > 0) down = {{P2p::Kind::Receive, flat(act_in), p - 1}, {P2p::Kind::Send, flat(grad_out), p - 1}};
      const Event above = comm.p2p(up, stream), below = comm.p2p(down, stream);
      stream.wait(above, comm.reason());
      stream.wait(below, comm.reason());
      if (!moves()) continue;
      if (p > 0) {
        EXPECT_EQ(act_in, std::vector<float>(7, value(p - 1, 1, step)));
      }
      if (p < last) {
        EXPECT_EQ(grad_in, std::vector<float>(3, value(p + 1, 2, step)));
      }
    }
  });
}

TEST_P(CommRanks, MayReuseABufferOnceItsEventIsReached) {
  run([&](Comm& comm, Stream& stream) {
    std::vector<int64_t> bounds;
    for (int r = 0; r <= comm.size(); r++) bounds.push_back(64 * r);
    std::vector<float> full(64 * comm.size()), storage(64 * comm.size()), seen;
    const Tensor pieces(comm.size() == 1 ? full.data() : storage.data(), DType::f32, {comm.size(), 64});
    for (int round = 0; round < 20; round++) {
      for (float& element : full) element = value(comm.rank(), 0, round);
      stream.wait(comm.all_to_all(pieces, flat(full), bounds, stream), comm.reason());
      seen.assign(pieces.as<float>(), pieces.as<float>() + pieces.elements());
      for (float& element : full) element = -1;  // a peer that still read it would see this
      for (int r = 0; r < comm.size() && moves(); r++) EXPECT_EQ(seen[64 * r], value(r, 0, round));
    }
  });
}

TEST_P(CommRanks, FinishEventsInAnyOrder) {
  run([&](Comm& comm, Stream& stream) {
    std::vector<int64_t> bounds;
    for (int r = 0; r <= comm.size(); r++) bounds.push_back(4 * r);
    std::vector<std::vector<float>> wholes(6, std::vector<float>(4 * comm.size(), -1));
    std::vector<float> out(4, value(comm.rank(), 9)), in(4, -1);
    std::vector<Event> events;
    for (int k = 0; k < 6; k++) {
      for (int i = 0; i < 4; i++) wholes[k][4 * comm.rank() + i] = value(comm.rank(), i, k);
      events.push_back(comm.all_gather(flat(wholes[k]), bounds, stream));
      if (k != 2 || comm.size() == 1) continue;
      const int peer = comm.rank() ^ 1;  // an odd one out at the end has none
      if (peer < comm.size())
        events.push_back(comm.p2p(std::vector<P2p>{{P2p::Kind::Send, flat(out), peer}, {P2p::Kind::Receive, flat(in), peer}}, stream));
    }
    for (size_t i = 0; i < events.size(); i++) stream.wait(events[(i * 5 + 3) % events.size()], comm.reason());
    for (const Event& event : events) stream.wait(event, comm.reason());  // a reached event stays reached
    for (int k = 0; k < 6 && moves(); k++) {
      for (int i = 0; i < 4 * comm.size(); i++) EXPECT_EQ(wholes[k][i], value(i / 4, i % 4, k));
    }
    if (moves() && comm.size() > 1 && (comm.rank() ^ 1) < comm.size()) {
      EXPECT_EQ(in[0], value(comm.rank() ^ 1, 9));
    }
  });
}

TEST_P(CommRanks, MoveAnyDType) {
  run([&](Comm& comm, Stream& stream) {
    std::vector<int64_t> bounds;
    for (int r = 0; r <= comm.size(); r++) bounds.push_back(3 * r);
    std::vector<uint8_t> bytes(3 * comm.size(), 255);
    std::vector<double> doubles(3 * comm.size(), -1);
    for (int i = 0; i < 3; i++)
      bytes[3 * comm.rank() + i] = static_cast<uint8_t>(comm.rank()), doubles[3 * comm.rank() + i] = comm.rank() + 0.1;
    stream.wait(comm.all_gather(Tensor(bytes.data(), DType::u8, {3 * comm.size()}), bounds, stream), comm.reason());
    stream.wait(comm.all_gather(Tensor(doubles.data(), DType::f64, {3 * comm.size()}), bounds, stream), comm.reason());
    for (int i = 0; i < 3 * comm.size() && moves(); i++) {
      EXPECT_EQ(bytes[i], i / 3);
      EXPECT_EQ(doubles[i], i / 3 + 0.1);
    }
  });
}

TEST_P(CommRanks, TraceWhatNullTraces) {
  const auto traced = [](Comm& comm, Stream& stream) {
    Trace trace;
    stream.set_trace(&trace);
    stream.set_phase(Phase::Exchange);
    const auto bounds = uneven_bounds(comm.size());
    const int64_t own = bounds[comm.rank() + 1] - bounds[comm.rank()];
    std::vector<float> full(bounds.back()), storage(comm.size() * own), out(6), in(6);
    const Tensor pieces(comm.size() == 1 ? full.data() : storage.data(), DType::f32, {comm.size(), own});
    stream.wait(comm.all_to_all(pieces, flat(full), bounds, stream), comm.reason());
    stream.wait(comm.all_gather(flat(full), bounds, stream), comm.reason());
    if (comm.size() > 1) {
      const int next = (comm.rank() + 1) % comm.size(), previous = (comm.rank() + comm.size() - 1) % comm.size();
      stream.wait(comm.p2p(std::vector<P2p>{{P2p::Kind::Send, flat(out), next}, {P2p::Kind::Receive, flat(in), previous}}, stream),
                  comm.reason());
    }
    stream.set_trace(nullptr);
    return trace;
  };
  run([&](Comm& comm, Stream& stream) {
    Stream null_stream("communication", false);
    const auto null = make_null_comm(comm.rank(), comm.size(), comm.reason());
    const Trace ours = traced(comm, stream), theirs = traced(*null, null_stream);
    EXPECT_TRUE(ours == theirs);
    EXPECT_EQ(ours.size(), comm.size() == 1 ? 2u : 7u);  // a group of one only waits
  });
}

TEST_P(CommRanks, PriceWhatThisRankSendsAndReceives) {
  run([&](Comm& comm, Stream& stream) {
    if (comm.size() == 1) return;
    Trace trace;
    stream.set_trace(&trace);
    const auto bounds = uneven_bounds(comm.size());
    const int64_t own = bounds[comm.rank() + 1] - bounds[comm.rank()], rest = bounds.back() - own;
    std::vector<float> full(bounds.back()), storage(comm.size() * own);
    stream.wait(comm.all_to_all(Tensor(storage.data(), DType::f32, {comm.size(), own}), flat(full), bounds, stream), comm.reason());
    stream.wait(comm.all_gather(flat(full), bounds, stream), comm.reason());
    stream.set_trace(nullptr);
    const OpInfo &exchange = trace.at(0).info, &gather = trace.at(2).info;
    EXPECT_EQ(exchange.kind, OpKind::AllToAll);
    EXPECT_EQ(exchange.read_bytes, 4 * rest);
    EXPECT_EQ(exchange.write_bytes, 4 * own * (comm.size() - 1));
    EXPECT_EQ(gather.kind, OpKind::AllGather);
    EXPECT_EQ(gather.read_bytes, 4 * own * (comm.size() - 1));
    EXPECT_EQ(gather.write_bytes, 4 * rest);
  });
}

TEST_P(CommRanks, RefuseWrongShapesBeforeAnythingIsPosted) {
  run([&](Comm& comm, Stream& stream) {
    const int size = comm.size();
    std::vector<int64_t> bounds;
    for (int r = 0; r <= size; r++) bounds.push_back(2 * r);
    std::vector<float> full(2 * size), storage(2 * size);
    const Tensor flat_full = flat(full), pieces(size == 1 ? full.data() : storage.data(), DType::f32, {size, 2});
    std::vector<int64_t> short_bounds(bounds.begin(), bounds.end() - 1), beyond = bounds, backwards = bounds;
    beyond.back()++;
    if (size > 1) backwards[1] = 2 * size + 1;
    EXPECT_THROW(comm.all_gather(flat_full, short_bounds, stream), InternalError);
    EXPECT_THROW(comm.all_gather(flat_full, beyond, stream), InternalError);
    if (size > 1) {
      EXPECT_THROW(comm.all_gather(flat_full, backwards, stream), InternalError);
    }
    EXPECT_THROW(comm.all_gather(flat_full.reshaped({size, 2}), bounds, stream), InternalError);
    EXPECT_THROW(comm.all_to_all(Tensor(storage.data(), DType::f32, {2 * size, 1}), flat_full, bounds, stream), InternalError);
    EXPECT_THROW(comm.all_to_all(Tensor(storage.data(), DType::i32, {size, 2}), flat_full, bounds, stream), InternalError);
    EXPECT_THROW(comm.p2p(std::vector<P2p>{{P2p::Kind::Send, flat_full, comm.rank()}}, stream), InternalError);
    EXPECT_THROW(comm.p2p(std::vector<P2p>{{P2p::Kind::Send, flat_full, size}}, stream), InternalError);
    if (size == 1) {
      EXPECT_THROW(comm.all_to_all(Tensor(storage.data(), DType::f32, {1, 2}), flat_full, bounds, stream), InternalError);
    }
    stream.wait(comm.all_to_all(pieces, flat_full, bounds, stream), comm.reason());  // and the group still works
  });
}

TEST_P(CommRanks, AskForProgressWithoutATicket) {
  run([&](Comm& comm, Stream& stream) {
    if (!comm.pending()) return;
    EXPECT_TRUE(comm.pending()->advance(0));
    stream.add_progress(comm.pending());
    std::vector<int64_t> bounds(comm.size() + 1);
    std::iota(bounds.begin(), bounds.end(), 0);
    std::vector<float> whole(comm.size(), -1);
    whole[comm.rank()] = value(comm.rank(), 0);
    const Event event = comm.all_gather(flat(whole), bounds, stream);
    stream.make_progress();
    stream.wait(event, comm.reason());
    for (int r = 0; r < comm.size(); r++) EXPECT_EQ(whole[r], value(r, 0));
    stream.remove_progress(comm.pending());
  });
}

std::string case_name(const testing::TestParamInfo<Case>& test) {
  constexpr const char* names[] = {"Self", "Threads", "Null", "Nccl"};
  return names[static_cast<int>(test.param.kind)] + std::to_string(test.param.ranks);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CommRanks,
                         testing::Values(Case{Kind::Self, 1}, Case{Kind::Null, 1}, Case{Kind::Null, 4}, Case{Kind::Threads, 2},
                                         Case{Kind::Threads, 3}, Case{Kind::Threads, 4}, Case{Kind::Threads, 8}, Case{Kind::Nccl, 2},
                                         Case{Kind::Nccl, 3}, Case{Kind::Nccl, 8}),
                         case_name);

/// Errors that only a group whose peers answer can have.
TEST(CommRanksErrors, NameBothSizesOfATransferThatDoesNotMatch) {
  try {
    run_thread_ranks(2, [](HostGroup& host) {
      std::vector<float> buffer(host.rank() == 0 ? 3 : 5);
      const auto comm = host.make_comm({0, 1}, "pp", WaitReason::Pp);
      Stream stream("communication", true);
      const auto kind = host.rank() == 0 ? P2p::Kind::Send : P2p::Kind::Receive;
      stream.wait(comm->p2p(std::vector<P2p>{{kind, flat(buffer), 1 - host.rank()}}, stream), WaitReason::Pp);
    });
    FAIL() << "nothing was thrown";
  } catch (const InternalError& error) {
    EXPECT_NE(error.text().what.find("12 bytes"), std::string::npos) << error.what();
    EXPECT_NE(error.text().what.find("20 bytes"), std::string::npos) << error.what();
    EXPECT_NE(error.text().what.find("group pp"), std::string::npos) << error.what();
  }
}

TEST(CommRanksErrors, NameTheCollectivesThatMeetInTheWrongOrder) {
  EXPECT_THROW(run_thread_ranks(2,
                                [](HostGroup& host) {
                                  const std::vector<int64_t> bounds = {0, 1, 2};
                                  std::vector<float> full(2), storage(2);
                                  const auto comm = host.make_comm({0, 1}, "dp", WaitReason::Dp);
                                  Stream stream("communication", true);
                                  const Tensor pieces(storage.data(), DType::f32, {2, 1});
                                  const Event event = host.rank() == 0 ? comm->all_gather(flat(full), bounds, stream)
                                                                       : comm->all_to_all(pieces, flat(full), bounds, stream);
                                  stream.wait(event, WaitReason::Dp);
                                }),
               InternalError);
}

TEST(CommRanksErrors, NameGroupPeerOperationAndSecondsOfATimeout) {
  try {
    run_thread_ranks(
        3,
        [](HostGroup& host) {
          std::vector<float> from_one(3), from_two(3);
          const auto comm = host.make_comm({0, 1, 2}, "pp", WaitReason::Pp);
          Stream stream("communication", true);
          if (host.rank() == 1) comm->p2p(std::vector<P2p>{{P2p::Kind::Send, flat(from_one), 0}}, stream);
          host.barrier();  // what rank 1 sends is there; rank 2 stays silent
          if (host.rank() > 0) host.barrier();
          const std::vector<P2p> batch = {{P2p::Kind::Receive, flat(from_one), 1}, {P2p::Kind::Receive, flat(from_two), 2}};
          stream.wait(comm->p2p(batch, stream), WaitReason::Pp);
        },
        0.2);
    FAIL() << "nothing was thrown";
  } catch (const CommError& error) {
    EXPECT_EQ(error.text().what, "p2p of group pp on rank 0 waited 200 ms for rank 2");
  }
}

TEST(CommRanksErrors, SayAtOnceThatAPeerHasEnded) {
  try {
    run_thread_ranks(2, [](HostGroup& host) {
      std::vector<float> buffer(3);
      const auto comm = host.make_comm({0, 1}, "pp", WaitReason::Pp);
      Stream stream("communication", true);
      if (host.rank() == 0) stream.wait(comm->p2p(std::vector<P2p>{{P2p::Kind::Receive, flat(buffer), 1}}, stream), WaitReason::Pp);
    });
    FAIL() << "nothing was thrown";
  } catch (const CommError& error) {
    EXPECT_NE(error.text().what.find("rank 1"), std::string::npos) << error.what();
    EXPECT_NE(error.text().what.find("ended"), std::string::npos) << error.what();
  }
}

TEST(CommRanksProgress, ASleepingRankServesItsOtherCommunicators) {
  // Rank 0 waits until rank 1 has read from it in "a", and only then sends in "b"; rank 1 sleeps in "b" from the start.
  run_thread_ranks(
      2,
      [](HostGroup& host) {
        std::vector<float> first(4, value(host.rank(), 1)), second(4, value(host.rank(), 2));
        const auto a = host.make_comm({0, 1}, "a", WaitReason::Pp), b = host.make_comm({0, 1}, "b", WaitReason::Dp);
        Stream stream("communication", true);
        const auto one = [&](Comm& comm, std::vector<float>& buffer) {
          const auto kind = host.rank() == 0 ? P2p::Kind::Send : P2p::Kind::Receive;
          return comm.p2p(std::vector<P2p>{{kind, flat(buffer), 1 - host.rank()}}, stream);
        };
        const Event in_a = one(*a, first);
        if (host.rank() == 0) stream.wait(in_a, WaitReason::Pp);
        stream.wait(one(*b, second), WaitReason::Dp);
        stream.wait(in_a, WaitReason::Pp);
        EXPECT_EQ(first[3], value(0, 1));
        EXPECT_EQ(second[3], value(0, 2));
      },
      20);
}

TEST(CommRanksProgress, ARankInABarrierServesItsCommunicators) {
  run_thread_ranks(
      2,
      [](HostGroup& host) {
        std::vector<float> buffer(4, value(host.rank(), 1));
        const auto comm = host.make_comm({0, 1}, "pp", WaitReason::Pp);
        Stream stream("communication", true);
        const auto kind = host.rank() == 0 ? P2p::Kind::Send : P2p::Kind::Receive;
        const Event event = comm->p2p(std::vector<P2p>{{kind, flat(buffer), 1 - host.rank()}}, stream);
        if (host.rank() == 0) stream.wait(event, WaitReason::Pp);
        host.barrier(20);
        stream.wait(event, WaitReason::Pp);
        EXPECT_EQ(buffer[0], value(0, 1));
      },
      20);
}

TEST(CommRanksProgress, GroupsOfTheSameRanksAndNameStayApart) {
  run_thread_ranks(2, [](HostGroup& host) {
    std::vector<float> first(1, value(host.rank(), 1)), second(1, value(host.rank(), 2));
    const auto a = host.make_comm({0, 1}, "x", WaitReason::Pp), b = host.make_comm({0, 1}, "x", WaitReason::Pp);
    Stream stream("communication", true);
    const auto kind = host.rank() == 0 ? P2p::Kind::Send : P2p::Kind::Receive;
    const auto one = [&](Comm& comm, std::vector<float>& buffer) {
      return comm.p2p(std::vector<P2p>{{kind, flat(buffer), 1 - host.rank()}}, stream);
    };
    const Event events[] = {host.rank() == 0 ? one(*a, first) : one(*b, second), host.rank() == 0 ? one(*b, second) : one(*a, first)};
    for (const Event& event : events) stream.wait(event, WaitReason::Pp);
    EXPECT_EQ(first[0], value(0, 1));
    EXPECT_EQ(second[0], value(0, 2));
  });
}

}  // namespace tessera
