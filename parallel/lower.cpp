#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "base/error.h"
#include "parallel/schedule.h"

namespace tessera {

namespace {

std::string text_of(const ComputeAction& action) {
  return fmt::format("{} of chunk {}, micro-batch {}", name_of(action.kind), action.chunk, action.microbatch);
}

/// A schedule seen as a graph: where each action stands, what feeds it and what it feeds. Throws InternalError when an action is missing,
/// stands twice, stands on another rank than its chunk, or when a backward precedes its forward.
class ScheduleGraph {
 public:
  struct Place {
    int rank, index;
  };

  ScheduleGraph(const ComputeSchedule& schedule, const Placement& placement) : schedule_(schedule), placement_(placement) {
    invariant(static_cast<int>(schedule.actions.size()) == placement.ranks(), "a schedule has a list of actions for each pipeline rank");
    for (size_t p = 0; p < schedule.actions.size(); p++)
      for (size_t k = 0; k < schedule.actions[p].size(); k++) add(static_cast<int>(p), static_cast<int>(k));
    invariant(micro_batches_ > 0, "a schedule has at least one micro-batch");
    for (int chunk = 0; chunk < placement.chunks(); chunk++)
      for (int microbatch = 0; microbatch < micro_batches_; microbatch++) expect_complete(chunk, microbatch);
  }

  int micro_batches() const { return micro_batches_; }
  bool has_backward() const { return has_backward_; }
  const ComputeAction& at(Place place) const { return schedule_.actions[place.rank][place.index]; }

  /// The action whose result travels into this one, from the chunk before it (Forward) or behind it (Backward).
  std::optional<Place> source_of(const ComputeAction& action) const {
    return neighbour(action, action.kind == ActionKind::Forward ? -1 : 1);
  }
  std::optional<Place> target_of(const ComputeAction& action) const {
    return neighbour(action, action.kind == ActionKind::Forward ? 1 : -1);
  }

  /// starts[p][k]: when action k of rank p starts if each takes one unit of time and transfers take none. InternalError when the actions
  /// wait for each other in a circle.
  std::vector<std::vector<int>> start_times() const {
    std::vector<std::vector<int>> starts(schedule_.actions.size());
    const auto next = [&](size_t p) { return starts[p].size(); };
    for (bool progress = true; progress;) {
      progress = false;
      for (size_t p = 0; p < starts.size(); p++) {
        for (; next(p) < schedule_.actions[p].size(); progress = true) {
          int start = next(p) ? starts[p].back() + 1 : 0;
          if (const std::optional<Place> source = source_of(schedule_.actions[p][next(p)])) {
            if (static_cast<size_t>(source->index) >= next(source->rank)) break;
            start = std::max(start, starts[source->rank][source->index] + 1);
          }
          starts[p].push_back(start);
        }
      }
    }
    for (size_t p = 0; p < starts.size(); p++)
      if (next(p) < schedule_.actions[p].size())
        throw InternalError(fmt::format("the schedule waits for itself: {} can never start", text_of(schedule_.actions[p][next(p)])));
    return starts;
  }

 private:
  using Key = std::array<int, 3>;  // kind, chunk, micro-batch

  static Key key_of(const ComputeAction& action) { return {static_cast<int>(action.kind), action.chunk, action.microbatch}; }

  void add(int p, int k) {
    const ComputeAction& action = schedule_.actions[p][k];
    invariant(action.kind == ActionKind::Forward || action.kind == ActionKind::Backward, "a schedule holds forwards and backwards only");
    invariant(action.chunk >= 0 && action.chunk < placement_.chunks() && action.microbatch >= 0, "a schedule names an unknown chunk");
    if (placement_.rank_of_chunk[action.chunk] != p)
      throw InternalError(fmt::format("{} stands on pipeline rank {}, which does not hold it", text_of(action), p));
    if (!places_.emplace(key_of(action), Place{p, k}).second) throw InternalError(text_of(action) + " stands twice in the schedule");
    micro_batches_ = std::max(micro_batches_, action.microbatch + 1);
    has_backward_ = has_backward_ || action.kind == ActionKind::Backward;
  }

  void expect_complete(int chunk, int microbatch) const {
    const ComputeAction forward{ActionKind::Forward, static_cast<int16_t>(chunk), static_cast<int16_t>(microbatch)};
    const ComputeAction backward{ActionKind::Backward, forward.chunk, forward.microbatch};
    for (const ComputeAction& action : {forward, backward}) {
      const bool wanted = action.kind == ActionKind::Forward || has_backward_;
      if (wanted && !places_.contains(key_of(action))) throw InternalError(text_of(action) + " is missing in the schedule");
    }
    if (has_backward_ && places_.at(key_of(backward)).index < places_.at(key_of(forward)).index)
      throw InternalError(text_of(backward) + " stands before its forward");
  }

  std::optional<Place> neighbour(ComputeAction action, int chunks_further) const {
    const int chunk = action.chunk + chunks_further;
    if (chunk < 0 || chunk >= placement_.chunks()) return std::nullopt;
    action.chunk = static_cast<int16_t>(chunk);
    return places_.at(key_of(action));
  }

  const ComputeSchedule& schedule_;
  const Placement& placement_;
  std::map<Key, Place> places_;
  int micro_batches_ = 0;
  bool has_backward_ = false;
};

/// The lowest free number each time: the fewest slots, and the same ones again and again.
class Slots {
 public:
  int take() {
    const auto free = std::find(used_.begin(), used_.end(), false);
    const int slot = static_cast<int>(free - used_.begin());
    if (free == used_.end()) used_.push_back(false);
    used_[slot] = true;
    return slot;
  }
  void give_back(int slot) { used_[slot] = false; }
  int most() const { return static_cast<int>(used_.size()); }

 private:
  std::vector<bool> used_;
};

/// The program of one pipeline rank while it grows.
class Lowering {
 public:
  Lowering(const ScheduleGraph& graph, const std::vector<ComputeAction>& compute, int chunks, int p)
      : graph_(graph), compute_(compute), p_(p), slots_(chunks), slot_of_(chunks, std::vector<int>(graph.micro_batches())) {}

  Program run() {
    size_rings();
    std::vector<int> backwards_left(slots_.size(), graph_.micro_batches());
    for (size_t k = 0; k < compute_.size(); k++) {
      if (k == 0) receive(0);
      if (k + 1 < compute_.size()) receive(k + 1);
      compute(compute_[k]);
      send(compute_[k]);
      const int16_t chunk = compute_[k].chunk;
      if (compute_[k].kind == ActionKind::Backward && --backwards_left[chunk] == 0) append(ActionKind::ReduceChunk, chunk, -1, -1, -1);
    }
    mark_first_and_last();
    for (const Slots& slots : slots_) program_.slots_of_chunk.push_back(slots.most());
    return std::move(program_);
  }

 private:
  /// The other side of the transfer into or out of a compute action, unless it lives on this rank.
  std::optional<ScheduleGraph::Place> source(const ComputeAction& action) const { return elsewhere(graph_.source_of(action)); }
  std::optional<ScheduleGraph::Place> target(const ComputeAction& action) const { return elsewhere(graph_.target_of(action)); }
  std::optional<ScheduleGraph::Place> elsewhere(std::optional<ScheduleGraph::Place> place) const {
    return place && place->rank != p_ ? place : std::nullopt;
  }

  void size_rings() {
    const std::vector<std::vector<int>> starts = graph_.start_times();
    program_.act_ring = receive_ring(ActionKind::Forward);
    program_.grad_ring = receive_ring(ActionKind::Backward);
    program_.send_act_ring = send_ring(ActionKind::Forward, starts);
    program_.send_grad_ring = send_ring(ActionKind::Backward, starts);
  }

  /// While action k computes, its own entry and the one posted for action k + 1 are in use.
  int receive_ring(ActionKind kind) const {
    const auto needs = [&](size_t k) { return k < compute_.size() && compute_[k].kind == kind && source(compute_[k]); };
    int most = 0;
    for (size_t k = 0; k < compute_.size(); k++) most = std::max(most, needs(k) + needs(k + 1));
    return most;
  }

  /// An entry is taken when the action that fills it starts, and free when the receive is posted on the other side. As many entries as
  /// are taken at once when nobody ever waits for one suffice: that execution then stays possible, so no real one can deadlock. Two at
  /// least, so that a slow transfer does not hold up the next action.
  int send_ring(ActionKind kind, const std::vector<std::vector<int>>& starts) const {
    struct Use {
      int begin, end;
    };
    std::vector<Use> uses;
    for (size_t k = 0; k < compute_.size(); k++) {
      if (compute_[k].kind != kind) continue;
      const std::optional<ScheduleGraph::Place> to = target(compute_[k]);
      if (!to) continue;
      const int posted = to->index < 2 ? 0 : starts[to->rank][to->index - 2] + 1;
      uses.push_back({starts[p_][k], std::max(starts[p_][k] + 1, posted)});
    }
    int most = std::min<int>(2, static_cast<int>(uses.size()));
    for (size_t i = 0; i < uses.size(); i++) {
      size_t next = i + 1;
      while (next < uses.size() && uses[next].begin < uses[i].end) next++;
      most = std::max(most, static_cast<int>(next - i));
    }
    return most;
  }

  void receive(size_t k) {
    const ComputeAction& action = compute_[k];
    const std::optional<ScheduleGraph::Place> from = source(action);
    if (!from) return;
    const auto [before, first] = received_.try_emplace({action.kind, from->rank}, from->index);
    if (!first && from->index < before->second)
      throw InternalError(
          fmt::format("pipeline rank {} wants {} earlier than rank {} sends it", p_, text_of(graph_.at(*from)), from->rank));
    before->second = from->index;
    if (action.kind == ActionKind::Forward) transfer(ActionKind::RecvAct, action, from->rank, program_.act_ring, acts_received_);
    if (action.kind == ActionKind::Backward) transfer(ActionKind::RecvGrad, action, from->rank, program_.grad_ring, grads_received_);
  }

  void send(const ComputeAction& action) {
    const std::optional<ScheduleGraph::Place> to = target(action);
    if (!to) return;
    if (action.kind == ActionKind::Forward) transfer(ActionKind::SendAct, action, to->rank, program_.send_act_ring, acts_sent_);
    if (action.kind == ActionKind::Backward) transfer(ActionKind::SendGrad, action, to->rank, program_.send_grad_ring, grads_sent_);
  }

  void transfer(ActionKind kind, const ComputeAction& action, int peer, int ring, int& count) {
    append(kind, action.chunk, action.microbatch, peer, count++ % ring);
    program_.actions.back().p2p_group = next_p2p_group_++;
  }

  void compute(const ComputeAction& action) {
    const bool forward = action.kind == ActionKind::Forward;
    int& slot = slot_of_[action.chunk][action.microbatch];
    if (forward) slot = slots_[action.chunk].take();
    append(action.kind, action.chunk, action.microbatch, -1, slot);
    if (!forward || !graph_.has_backward()) slots_[action.chunk].give_back(slot);
  }

  void append(ActionKind kind, int16_t chunk, int microbatch, int peer, int slot) {
    program_.actions.push_back({kind, chunk, static_cast<int16_t>(microbatch), static_cast<int16_t>(peer), static_cast<int16_t>(slot),
                                /*p2p_group=*/-1, /*first=*/false, /*last=*/false});
  }

  void mark_first_and_last() {
    std::map<std::pair<ActionKind, int>, Action*> latest;
    for (Action& action : program_.actions) {
      Action*& before = latest[{action.kind, action.chunk}];
      action.first = before == nullptr;
      before = &action;
    }
    for (auto& [key, action] : latest) action->last = true;
  }

  const ScheduleGraph& graph_;
  const std::vector<ComputeAction>& compute_;
  const int p_;
  Program program_;
  std::vector<Slots> slots_;                            // by chunk
  std::vector<std::vector<int>> slot_of_;               // by chunk and micro-batch
  std::map<std::pair<ActionKind, int>, int> received_;  // by kind and peer: the place in the peer's schedule of the latest receive's source
  int acts_received_ = 0, grads_received_ = 0, acts_sent_ = 0, grads_sent_ = 0;
  int32_t next_p2p_group_ = 0;
};

}  // namespace

Program lower(const ComputeSchedule& schedule, const Placement& placement, int p) {
  invariant(p >= 0 && p < placement.ranks(), "a program is asked of a rank outside the pipeline");
  const ScheduleGraph graph(schedule, placement);
  return Lowering(graph, schedule.actions[p], placement.chunks(), p).run();
}

std::string Program::text() const {
  std::string out;
  for (const Action& action : actions) {
    std::string line = fmt::format("{:<12}chunk {:<3}", name_of(action.kind), action.chunk);
    if (action.microbatch >= 0) line += fmt::format("micro-batch {:<5}", action.microbatch);
    const bool sends = action.kind == ActionKind::SendAct || action.kind == ActionKind::SendGrad;
    if (action.peer >= 0)
      line += fmt::format("{:<5}{:<4}entry {:<3}group {:<5}", sends ? "to" : "from", action.peer, action.slot, action.p2p_group);
    if (action.peer < 0 && action.slot >= 0) line += fmt::format("slot {:<3}", action.slot);
    if (action.first) line += " first";
    if (action.last) line += " last";
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace tessera
