// lower(): the communication, slots and rings that it adds to a schedule. `Pipeline` runs the programs of all ranks against each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "base/error.h"
#include "parallel/schedule.h"

namespace tessera {
namespace {

bool is_compute(const Action& action) { return action.kind == ActionKind::Forward || action.kind == ActionKind::Backward; }
bool is_send(const Action& action) { return action.kind == ActionKind::SendAct || action.kind == ActionKind::SendGrad; }
bool is_receive(const Action& action) { return action.kind == ActionKind::RecvAct || action.kind == ActionKind::RecvGrad; }
bool is_gradient(const Action& action) { return action.kind == ActionKind::SendGrad || action.kind == ActionKind::RecvGrad; }

std::vector<Program> lower_all(const ComputeSchedule& schedule, const Placement& placement) {
  std::vector<Program> programs;
  for (int p = 0; p < placement.ranks(); p++) programs.push_back(lower(schedule, placement, p));
  return programs;
}

/// Executes all programs with the strictest rules a communicator may have: a transfer ends only when both sides have posted it; between two
/// ranks and in one direction the order alone says what belongs together; an action that fills a ring entry starts only when the last send
/// out of that entry has ended; an action that needs a received tensor starts only when it has arrived.
class Pipeline {
 public:
  explicit Pipeline(const std::vector<Program>& programs) : programs_(programs), ranks_(programs.size()) {}

  /// Whether every rank reaches the end of its program.
  bool completes() {
    for (bool progress = true; progress;) {
      progress = false;
      for (size_t p = 0; p < ranks_.size(); p++)
        for (; ranks_[p].next < programs_[p].actions.size() && step(static_cast<int>(p)); ranks_[p].next++) progress = true;
    }
    for (size_t p = 0; p < ranks_.size(); p++)
      if (ranks_[p].next < programs_[p].actions.size()) return false;
    return true;
  }

  /// Call after completes(): every send met a receive of the neighbouring chunk and the same micro-batch.
  void expect_matching_transfers() const {
    for (const auto& [key, channel] : channels_) {
      ASSERT_EQ(channel.sends.size(), channel.receives.size());
      for (size_t i = 0; i < channel.sends.size(); i++) {
        EXPECT_EQ(channel.sends[i].microbatch, channel.receives[i].microbatch);
        EXPECT_EQ(channel.sends[i].chunk + (is_gradient(channel.sends[i]) ? -1 : 1), channel.receives[i].chunk);
      }
    }
  }

 private:
  struct Channel {
    std::vector<Action> sends, receives;
  };
  struct Transfer {
    Channel* channel;
    size_t index;
    bool ended() const { return index < channel->sends.size() && index < channel->receives.size(); }
  };
  struct Rank {
    size_t next = 0;
    std::map<std::pair<ActionKind, int>, Transfer> last_send;      // by kind and ring entry
    std::map<std::tuple<ActionKind, int, int>, Transfer> arrival;  // by kind, chunk and micro-batch
    std::map<std::tuple<ActionKind, int, int>, int> entry;         // of the receives that no action has used yet
    std::set<std::pair<ActionKind, int>> held;                     // receive entries in flight or in use
  };

  bool step(int p) {
    Rank& rank = ranks_[p];
    const std::vector<Action>& actions = programs_[p].actions;
    const Action& action = actions[rank.next];
    if (is_receive(action)) {
      Channel& channel = channels_[{action.peer, p, is_gradient(action)}];
      channel.receives.push_back(action);
      rank.arrival[{action.kind, action.chunk, action.microbatch}] = {&channel, channel.receives.size() - 1};
      rank.entry[{action.kind, action.chunk, action.microbatch}] = action.slot;
      EXPECT_TRUE(rank.held.insert({action.kind, action.slot}).second) << "a receive overwrites an entry in use";
    } else if (is_send(action)) {
      Channel& channel = channels_[{p, action.peer, is_gradient(action)}];
      channel.sends.push_back(action);
      rank.last_send[{action.kind, action.slot}] = {&channel, channel.sends.size() - 1};
    } else if (is_compute(action)) {
      const bool fills = rank.next + 1 < actions.size() && is_send(actions[rank.next + 1]);
      if (fills) {
        const Action& send = actions[rank.next + 1];
        const auto before = rank.last_send.find({send.kind, send.slot});
        if (before != rank.last_send.end() && !before->second.ended()) return false;
      }
      const std::tuple needed(action.kind == ActionKind::Forward ? ActionKind::RecvAct : ActionKind::RecvGrad, int{action.chunk},
                              int{action.microbatch});
      const auto arrival = rank.arrival.find(needed);
      if (arrival != rank.arrival.end()) {
        if (!arrival->second.ended()) return false;
        rank.held.erase({std::get<0>(needed), rank.entry.at(needed)});
      }
    }
    return true;
  }

  const std::vector<Program>& programs_;
  std::vector<Rank> ranks_;
  std::map<std::tuple<int, int, bool>, Channel> channels_;  // from, to, gradients
};

Placement in_a_ring(int pp, int chunks_per_rank) {
  Placement placement;
  for (int chunk = 0; chunk < pp * chunks_per_rank; chunk++) placement.rank_of_chunk.push_back(chunk % pp);
  return placement;
}

/// Down the pipeline and up again: the deepest two chunks are neighbours on one rank.
Placement in_a_v(int pp) {
  Placement placement = one_chunk_per_rank(pp);
  for (int p = pp - 1; p >= 0; p--) placement.rank_of_chunk.push_back(p);
  return placement;
}

struct Case {
  std::string name;
  ComputeSchedule schedule;
  Placement placement;
  int m;
};

std::vector<Case> many_cases() {
  std::vector<Case> cases;
  for (int pp : {1, 2, 3, 4, 7})
    for (int m : {1, 2, 3, 4, 8, 13, 32}) {
      const std::string size = " pp=" + std::to_string(pp) + " m=" + std::to_string(m);
      const Placement line = one_chunk_per_rank(pp), ring = in_a_ring(pp, 2), deep_ring = in_a_ring(pp, 3), v = in_a_v(pp);
      cases.push_back({"1f1b" + size, one_f_one_b(line, m), line, m});
      cases.push_back({"gpipe" + size, gpipe(line, m), line, m});
      cases.push_back({"forward only" + size, forward_only(line, m), line, m});
      cases.push_back({"gpipe ring" + size, gpipe(ring, m), ring, m});
      cases.push_back({"gpipe deep ring" + size, gpipe(deep_ring, m), deep_ring, m});
      cases.push_back({"gpipe v" + size, gpipe(v, m), v, m});
      cases.push_back({"forward only ring" + size, forward_only(ring, m), ring, m});
    }
  return cases;
}

TEST(Lower, EveryPipelineCompletesAndItsTransfersMatch) {
  for (const Case& c : many_cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<Program> programs = lower_all(c.schedule, c.placement);
    Pipeline pipeline(programs);
    EXPECT_TRUE(pipeline.completes());
    pipeline.expect_matching_transfers();
  }
}

TEST(Lower, ChunksInARingNeedMoreThanTwoSendEntriesAndGetThem) {
  const Placement ring = in_a_ring(2, 2);
  std::vector<Program> programs = lower_all(gpipe(ring, 16), ring);
  EXPECT_GT(programs[1].send_act_ring, 2);
  for (Program& program : programs)
    for (Action& action : program.actions)
      if (is_send(action)) action.slot %= 2;
  EXPECT_FALSE(Pipeline(programs).completes()) << "the simulation sees no deadlock where there is one";
}

TEST(Lower, OneChunkARankNeedsAtMostTwoEntriesOfEachRing) {
  for (const char* name : {"1f1b", "gpipe"})
    for (int pp : {1, 2, 4, 8})
      for (int m : {1, 2, 8, 64})
        for (const Program& program : lower_all(make_schedule(name, one_chunk_per_rank(pp), m), one_chunk_per_rank(pp)))
          for (int ring : {program.act_ring, program.grad_ring, program.send_act_ring, program.send_grad_ring}) EXPECT_LE(ring, 2);
}

TEST(Lower, ComputeIsTheScheduleUnchanged) {
  for (const Case& c : many_cases())
    for (int p = 0; p < c.placement.ranks(); p++) {
      std::vector<ComputeAction> compute;
      for (const Action& action : lower(c.schedule, c.placement, p).actions)
        if (is_compute(action)) compute.push_back({action.kind, action.chunk, action.microbatch});
      EXPECT_EQ(compute, c.schedule.actions[p]) << c.name;
    }
}

TEST(Lower, ReceivesArePostedOneComputeActionAheadAndSendsFollowTheirs) {
  for (const Case& c : many_cases())
    for (const Program& program : lower_all(c.schedule, c.placement)) {
      std::vector<Action> compute;
      for (const Action& action : program.actions)
        if (is_compute(action)) compute.push_back(action);
      size_t done = 0;
      for (const Action& action : program.actions) {
        done += is_compute(action);
        if (!is_receive(action) && !is_send(action)) continue;
        // done == 0: for the first or the second; else for the one after the next
        const size_t first = is_send(action) ? done - 1 : done == 0 ? 0 : done + 1, last = is_receive(action) && done == 0 ? 1 : first;
        const bool fits = std::any_of(compute.begin() + first, compute.begin() + last + 1, [&](const Action& user) {
          return user.chunk == action.chunk && user.microbatch == action.microbatch;
        });
        EXPECT_TRUE(fits) << c.name << "\n" << program.text();
      }
    }
}

TEST(Lower, SlotsAreWhatThePapersCountInFlight) {
  for (int pp : {1, 2, 4, 7})
    for (int m : {1, 2, 4, 13}) {
      const Placement line = one_chunk_per_rank(pp);
      for (int p = 0; p < pp; p++) {
        EXPECT_EQ(lower(one_f_one_b(line, m), line, p).slots_of_chunk[p], std::min(m, pp - p)) << "pp=" << pp << " m=" << m << " p=" << p;
        EXPECT_EQ(lower(gpipe(line, m), line, p).slots_of_chunk[p], m);
        EXPECT_EQ(lower(forward_only(line, m), line, p).slots_of_chunk[p], 1);
        for (int other = 0; other < pp; other++)
          if (other != p) {
            EXPECT_EQ(lower(one_f_one_b(line, m), line, p).slots_of_chunk[other], 0);
          }
      }
    }
}

TEST(Lower, ASlotHoldsOneMicroBatchFromItsForwardToItsBackward) {
  for (const Case& c : many_cases())
    for (const Program& program : lower_all(c.schedule, c.placement)) {
      std::map<std::pair<int, int>, int> held;  // by chunk and slot: the micro-batch
      const bool trains =
          std::any_of(program.actions.begin(), program.actions.end(), [](const Action& a) { return a.kind == ActionKind::Backward; });
      for (const Action& action : program.actions) {
        if (!is_compute(action)) continue;
        EXPECT_LT(action.slot, program.slots_of_chunk[action.chunk]);
        const std::pair place(int{action.chunk}, int{action.slot});
        if (action.kind == ActionKind::Forward) {
          EXPECT_TRUE(held.emplace(place, action.microbatch).second) << c.name;
        }
        if (action.kind == ActionKind::Backward) {
          EXPECT_EQ(held.at(place), action.microbatch) << c.name;
        }
        if (action.kind == ActionKind::Backward || !trains) held.erase(place);
      }
      EXPECT_TRUE(held.empty());
    }
}

TEST(Lower, RingEntriesStayWithinTheirRings) {
  for (const Case& c : many_cases())
    for (const Program& program : lower_all(c.schedule, c.placement)) {
      const std::map<ActionKind, int> rings{{ActionKind::RecvAct, program.act_ring},
                                            {ActionKind::RecvGrad, program.grad_ring},
                                            {ActionKind::SendAct, program.send_act_ring},
                                            {ActionKind::SendGrad, program.send_grad_ring}};
      std::map<ActionKind, std::set<int>> used;
      for (const Action& action : program.actions)
        if (is_send(action) || is_receive(action)) used[action.kind].insert(action.slot);
      for (const auto& [kind, ring] : rings) {
        EXPECT_EQ(static_cast<int>(used[kind].size()), ring) << c.name << " " << name_of(kind);
        if (ring) {
          EXPECT_EQ(*used[kind].rbegin(), ring - 1);
        }
      }
    }
}

TEST(Lower, EachChunkIsReducedOnceAfterItsLastBackward) {
  for (const Case& c : many_cases())
    for (const Program& program : lower_all(c.schedule, c.placement)) {
      std::map<int, int> backwards, reduced;
      for (const Action& action : program.actions) {
        if (action.kind == ActionKind::Backward) backwards[action.chunk]++;
        if (action.kind != ActionKind::ReduceChunk) continue;
        EXPECT_EQ(backwards[action.chunk], c.m) << c.name;
        EXPECT_EQ(++reduced[action.chunk], 1) << c.name;
      }
      EXPECT_EQ(reduced.size(), backwards.size()) << c.name;
    }
}

TEST(Lower, FirstAndLastMarkTheEndsOfEachKindAndChunk) {
  for (const Case& c : many_cases())
    for (const Program& program : lower_all(c.schedule, c.placement)) {
      std::map<std::pair<ActionKind, int>, std::vector<const Action*>> runs;
      for (const Action& action : program.actions) runs[{action.kind, action.chunk}].push_back(&action);
      for (const auto& [key, run] : runs)
        for (const Action* action : run) {
          EXPECT_EQ(action->first, action == run.front()) << c.name;
          EXPECT_EQ(action->last, action == run.back()) << c.name;
        }
    }
}

TEST(Lower, EveryTransferIsAGroupOfItsOwn) {
  for (const Case& c : many_cases())
    for (const Program& program : lower_all(c.schedule, c.placement)) {
      std::set<int> groups;
      for (const Action& action : program.actions) {
        if (is_send(action) || is_receive(action))
          EXPECT_TRUE(groups.insert(action.p2p_group).second);
        else
          EXPECT_EQ(action.p2p_group, -1);
      }
    }
}

TEST(Lower, NeighboursOnOneRankExchangeNothing) {
  const Placement alone{{0, 0, 0}};
  for (const Action& action : lower(gpipe(alone, 4), alone, 0).actions)
    EXPECT_TRUE(is_compute(action) || action.kind == ActionKind::ReduceChunk);
  const Placement v = in_a_v(3);  // chunks 2 and 3 on rank 2
  for (const Action& action : lower(gpipe(v, 4), v, 2).actions)
    if (is_send(action) || is_receive(action)) {
      EXPECT_EQ(action.peer, 1);
    }
}

TEST(Lower, AProgramIsReadable) {
  const Placement line = one_chunk_per_rank(2);
  EXPECT_EQ(lower(one_f_one_b(line, 2), line, 0).text(),
            "Forward     chunk 0  micro-batch 0    slot 0   first\n"
            "SendAct     chunk 0  micro-batch 0    to   1   entry 0  group 0     first\n"
            "RecvGrad    chunk 0  micro-batch 0    from 1   entry 0  group 1     first\n"
            "Forward     chunk 0  micro-batch 1    slot 1   last\n"
            "SendAct     chunk 0  micro-batch 1    to   1   entry 1  group 2     last\n"
            "RecvGrad    chunk 0  micro-batch 1    from 1   entry 1  group 3     last\n"
            "Backward    chunk 0  micro-batch 0    slot 0   first\n"
            "Backward    chunk 0  micro-batch 1    slot 1   last\n"
            "ReduceChunk chunk 0   first last\n");
}

/// The text of the InternalError that lowering the schedule for every rank throws.
std::string complaint(const ComputeSchedule& schedule, const Placement& placement) {
  try {
    lower_all(schedule, placement);
  } catch (const InternalError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Lower, AFaultyScheduleIsOurFaultAndNamesTheAction) {
  const Placement line = one_chunk_per_rank(2);
  ComputeSchedule missing = gpipe(line, 2), twice = missing, misplaced = missing, backward_first = missing;
  missing.actions[1].pop_back();
  EXPECT_EQ(complaint(missing, line), "Backward of chunk 1, micro-batch 1 is missing in the schedule");
  twice.actions[0].push_back(twice.actions[0].front());
  EXPECT_EQ(complaint(twice, line), "Forward of chunk 0, micro-batch 0 stands twice in the schedule");
  std::swap(misplaced.actions[0][0], misplaced.actions[1][0]);
  EXPECT_EQ(complaint(misplaced, line), "Forward of chunk 1, micro-batch 0 stands on pipeline rank 0, which does not hold it");
  std::swap(backward_first.actions[1][0], backward_first.actions[1][2]);
  EXPECT_EQ(complaint(backward_first, line), "Backward of chunk 1, micro-batch 0 stands before its forward");
}

TEST(Lower, AScheduleThatWaitsForItselfIsRefused) {
  const Placement ring = in_a_ring(2, 2);
  ComputeSchedule schedule = forward_only(ring, 1);
  std::swap(schedule.actions[0][0], schedule.actions[0][1]);  // chunk 2 before chunk 0, which feeds it through rank 1
  EXPECT_EQ(complaint(schedule, ring), "the schedule waits for itself: Forward of chunk 2, micro-batch 0 can never start");
}

TEST(Lower, NeighboursThatDisagreeOnTheOrderAreRefused) {
  const Placement line = one_chunk_per_rank(2);
  ComputeSchedule schedule = forward_only(line, 2);
  std::swap(schedule.actions[1][0], schedule.actions[1][1]);
  EXPECT_EQ(complaint(schedule, line), "pipeline rank 1 wants Forward of chunk 0, micro-batch 0 earlier than rank 0 sends it");
}

}  // namespace
}  // namespace tessera
