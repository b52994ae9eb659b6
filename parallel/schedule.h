#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/layout.h"

namespace tessera {

enum class ActionKind : uint8_t { Forward, Backward, SendAct, RecvAct, SendGrad, RecvGrad, ReduceChunk };
const char* name_of(ActionKind kind);

/// What generators emit: compute only.
struct ComputeAction {
  ActionKind kind;  // Forward or Backward
  int16_t chunk, microbatch;
  bool operator==(const ComputeAction&) const = default;
};

/// Which pipeline rank holds which chunk of the model: chunk c of C in order of depth.
struct Placement {
  std::vector<int> rank_of_chunk;
  int chunks() const { return static_cast<int>(rank_of_chunk.size()); }
  int ranks() const;
};
/// One chunk a rank.
Placement one_chunk_per_rank(int pp);

/// actions[p]: what pipeline rank p computes, in order.
struct ComputeSchedule {
  std::vector<std::vector<ComputeAction>> actions;
};
/// All forwards chunk by chunk, then all backwards, deepest chunk first, each in micro-batch order.   Huang et al. 2019, arXiv:1811.06965
ComputeSchedule gpipe(const Placement& placement, int micro_batches);
/// pp - 1 - p warm-up forwards on rank p, then one forward, one backward.    Narayanan et al. 2020 (PipeDream-Flush), arXiv:2006.09503
/// ConfigError when a rank holds more than one chunk.
ComputeSchedule one_f_one_b(const Placement& placement, int micro_batches);
/// Forwards alone: evaluation.
ComputeSchedule forward_only(const Placement& placement, int micro_batches);
/// By the name of the configuration: "gpipe" or "1f1b"; ConfigError otherwise.
ComputeSchedule make_schedule(const std::string& name, const Placement& placement, int micro_batches);

/// One step of a Program. Sends and receives only enqueue; the compute action that needs the data waits. Between two ranks and in one
/// direction, sends and receives match in order. A transfer names the chunk of its own side: SendAct of chunk c meets RecvAct of chunk c + 1.
struct Action {
  ActionKind kind;
  int16_t chunk, microbatch;  // micro-batch -1 for ReduceChunk
  int16_t peer;               // pipeline coordinate of the other side; -1 for compute and ReduceChunk
  int16_t slot;               // activation slot of the chunk for compute; ring entry for communication; -1 for ReduceChunk
  int32_t p2p_group;          // transfers with the same number start together and share an event; -1 for compute and ReduceChunk
  bool first, last;           // the first / last of its kind and chunk in this program
  bool operator==(const Action&) const = default;
};

/// Everything one pipeline rank does in a step, in order: printable data.
struct Program {
  std::vector<Action> actions;
  std::vector<int> slots_of_chunk;            // by chunk; 0 for chunks of other ranks
  int act_ring = 0, grad_ring = 0;            // entries of the rings that hold received activations and gradients (0: nothing is received)
  int send_act_ring = 0, send_grad_ring = 0;  // likewise what is sent; before an action fills an entry, the send out of it must have ended
  std::string text() const;                   // an action a line
};

/// Adds communication, slots and lifetimes to a schedule, for pipeline rank `p`. Receives are posted one compute action ahead, so that
/// they travel under it. ReduceChunk stands after the last backward of its chunk. Chunks whose neighbour lives on the same rank need no
/// transfer. Every transfer is a p2p group of its own, since a compute action must not wait for a send or for a later receive.
/// Throws InternalError on a schedule that lacks an action, has one twice, waits for itself, or whose neighbours disagree on the order.
Program lower(const ComputeSchedule& schedule, const Placement& placement, int p);

}  // namespace tessera
