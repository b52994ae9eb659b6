#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tessera {

namespace {

Layout layout_of(int pp, int dp, int cp, int tp) {
  Layout layout;
  layout.degrees = {pp, dp, cp, tp};
  return layout;
}

/// The world ranks that really answer in `comm`, by coordinate.
std::vector<int> members_of(Comm& comm, int rank, Stream& stream) {
  std::vector<float> ranks(comm.size(), -1);
  std::vector<int64_t> bounds;
  for (int r = 0; r <= comm.size(); r++) bounds.push_back(r);
  ranks[comm.rank()] = static_cast<float>(rank);
  stream.wait(comm.all_gather(Tensor(ranks.data(), DType::f32, {comm.size()}), bounds, stream), comm.reason());
  return {ranks.begin(), ranks.end()};
}

}  // namespace

class MeshRanks : public testing::TestWithParam<Layout> {};

TEST_P(MeshRanks, MeetInEveryGroupWhomTheLayoutNames) {
  const Layout layout = GetParam();
  run_thread_ranks(
      layout.ranks(),
      [&](HostGroup& host) {
        Stream stream("communication", true);
        Mesh mesh(layout, host);
        std::vector<int> everyone;
        for (int r = 0; r < host.size(); r++) everyone.push_back(r);
        EXPECT_EQ(mesh.rank(), host.rank());
        for (int a = 0; a < axes; a++) {
          const Axis axis = static_cast<Axis>(a);
          EXPECT_EQ(mesh.coordinate(axis), coordinates_of(layout, host.rank())[a]);
          EXPECT_EQ(mesh.comm(axis).rank(), mesh.coordinate(axis));
          EXPECT_EQ(mesh.comm(axis).size(), layout.degree(axis));
          EXPECT_EQ(members_of(mesh.comm(axis), host.rank(), stream), group_of(layout, axis, host.rank()));
        }
        EXPECT_EQ(members_of(mesh.pipe_backward(), host.rank(), stream), group_of(layout, Axis::Pp, host.rank()));
        EXPECT_EQ(members_of(mesh.world(), host.rank(), stream), everyone);
        const auto tied = tied_group_of(layout, host.rank());
        EXPECT_EQ(members_of(mesh.tied(), host.rank(), stream), tied.empty() ? std::vector<int>{host.rank()} : tied);
      },
      60);
}

TEST_P(MeshRanks, SendForwardAndBackwardInAnyOrder) {
  const Layout layout = GetParam();
  run_thread_ranks(
      layout.ranks(),
      [&](HostGroup& host) {
        Stream stream("communication", true);
        Mesh mesh(layout, host);
        mesh.progress_on(stream);
        Comm &forward = mesh.pipe_forward(), &backward = mesh.pipe_backward();
        const int p = forward.rank(), last = forward.size() - 1;
        float act_in = -1, act_out = static_cast<float>(10 + p), grad_in = -1, grad_out = static_cast<float>(20 + p);
        const auto one = [&](Comm& comm, P2p::Kind kind, float& buffer, int peer) {
          return comm.p2p(std::vector<P2p>{{kind, Tensor(&buffer, DType::f32, {1}), peer}}, stream);
        };
        std::vector<Event> events;
        const auto transfer_forward = [&] {
          if (p < last) events.push_back(one(forward, P2p::Kind::Send, act_out, p + 1));
          if (p > 0) events.push_back(one(forward, P2p::Kind::Receive, act_in, p - 1));
        };
        if (p % 2 == 0) transfer_forward();  // neighbours start in opposite orders
        if (p > 0) events.push_back(one(backward, P2p::Kind::Send, grad_out, p - 1));
        if (p < last) events.push_back(one(backward, P2p::Kind::Receive, grad_in, p + 1));
        if (p % 2 == 1) transfer_forward();
        stream.make_progress();
        for (const Event& event : events) stream.wait(event, WaitReason::Pp);
        if (p > 0) {
          EXPECT_EQ(act_in, 10 + p - 1);
        }
        if (p < last) {
          EXPECT_EQ(grad_in, 20 + p + 1);
        }
      },
      60);
}

INSTANTIATE_TEST_SUITE_P(Layouts, MeshRanks,
                         testing::Values(layout_of(1, 1, 1, 1), layout_of(2, 1, 1, 1), layout_of(1, 3, 1, 1), layout_of(2, 2, 1, 1),
                                         layout_of(3, 2, 1, 1), layout_of(4, 1, 1, 2), layout_of(2, 2, 2, 2)),
                         [](const auto& test) {
                           std::string name;
                           for (int a = 0; a < axes; a++) name += name_of(static_cast<Axis>(a)) + std::to_string(test.param.degrees[a]);
                           return name;
                         });

TEST(Mesh, ChargesWaitsToTheAxis) {
  const auto host = make_null_group(0, 16);
  Mesh mesh(layout_of(2, 2, 2, 2), *host);
  EXPECT_EQ(mesh.pipe_forward().reason(), WaitReason::Pp);
  EXPECT_EQ(mesh.pipe_backward().reason(), WaitReason::Pp);
  EXPECT_EQ(mesh.comm(Axis::Dp).reason(), WaitReason::Dp);
  EXPECT_EQ(mesh.comm(Axis::Tp).reason(), WaitReason::Tp);
  EXPECT_EQ(mesh.tied().reason(), WaitReason::Tied);
  EXPECT_EQ(mesh.world().reason(), WaitReason::Control);
}

TEST(Mesh, StandsForAnyRankOfAnyLayoutOnNull) {
  const Layout layout = layout_of(12, 32, 1, 8);
  const int rank = 1234;
  const auto host = make_null_group(rank, layout.ranks());
  Mesh mesh(layout, *host);
  EXPECT_EQ(mesh.world().size(), 12 * 32 * 8);
  EXPECT_EQ(mesh.world().rank(), rank);
  EXPECT_EQ(mesh.comm(Axis::Dp).size(), 32);
  EXPECT_EQ(mesh.comm(Axis::Dp).rank(), coordinates_of(layout, rank)[static_cast<int>(Axis::Dp)]);
  EXPECT_EQ(mesh.tied().size(), 1);  // a stage between
}

TEST(Mesh, RefusesALayoutOfAnotherNumberOfRanks) {
  const auto host = make_null_group(0, 6);
  try {
    Mesh mesh(layout_of(2, 2, 1, 1), *host);
    FAIL() << "nothing was thrown";
  } catch (const ConfigError& error) {
    EXPECT_NE(error.text().what.find("needs 4 ranks"), std::string::npos) << error.what();
    EXPECT_NE(error.text().what.find("6 run"), std::string::npos) << error.what();
  }
}

TEST(MeshOfThreadRanks, TakesItsCommunicatorsOffTheStreamWhenItEnds) {
  run_thread_ranks(2, [](HostGroup& host) {
    Stream stream("communication", true);
    {
      Mesh mesh(layout_of(1, 2, 1, 1), host);
      mesh.progress_on(stream);
      stream.make_progress();
    }
    stream.make_progress();  // the sanitizers see whoever is still called
  });
}

}  // namespace tessera
