#include "parallel/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/edit_distance.h"
#include "base/error.h"

namespace tessera {

const char* name_of(ActionKind kind) {
  switch (kind) {
    case ActionKind::Forward:
      return "Forward";
    case ActionKind::Backward:
      return "Backward";
    case ActionKind::SendAct:
      return "SendAct";
    case ActionKind::RecvAct:
      return "RecvAct";
    case ActionKind::SendGrad:
      return "SendGrad";
    case ActionKind::RecvGrad:
      return "RecvGrad";
    case ActionKind::ReduceChunk:
      return "ReduceChunk";
  }
  return "?";
}

int Placement::ranks() const { return rank_of_chunk.empty() ? 0 : 1 + *std::max_element(rank_of_chunk.begin(), rank_of_chunk.end()); }

Placement one_chunk_per_rank(int pp) {
  Placement placement;
  for (int p = 0; p < pp; p++) placement.rank_of_chunk.push_back(p);
  return placement;
}

namespace {

/// chunks[p]: the chunks of pipeline rank p, by depth.
std::vector<std::vector<int>> chunks_by_rank(const Placement& placement) {
  std::vector<std::vector<int>> chunks(placement.ranks());
  for (int chunk = 0; chunk < placement.chunks(); chunk++) chunks[placement.rank_of_chunk[chunk]].push_back(chunk);
  return chunks;
}

void expect_countable(int micro_batches) {
  constexpr int most = std::numeric_limits<int16_t>::max();
  invariant(micro_batches >= 1, "a schedule has at least one micro-batch");
  if (micro_batches <= most) return;
  throw ConfigError({fmt::format("train.batch_size asks for {} micro-batches a step and rank", micro_batches),
                     {},
                     fmt::format("at most {}", most),
                     "raise train.micro_batch_size or parallel.dp"});
}

ComputeAction action(ActionKind kind, int chunk, int microbatch) {
  return {kind, static_cast<int16_t>(chunk), static_cast<int16_t>(microbatch)};
}

}  // namespace

ComputeSchedule forward_only(const Placement& placement, int micro_batches) {
  expect_countable(micro_batches);
  ComputeSchedule schedule;
  for (const std::vector<int>& chunks : chunks_by_rank(placement)) {
    std::vector<ComputeAction>& actions = schedule.actions.emplace_back();
    for (int chunk : chunks)
      for (int microbatch = 0; microbatch < micro_batches; microbatch++) actions.push_back(action(ActionKind::Forward, chunk, microbatch));
  }
  return schedule;
}

ComputeSchedule gpipe(const Placement& placement, int micro_batches) {
  ComputeSchedule schedule = forward_only(placement, micro_batches);
  const std::vector<std::vector<int>> chunks = chunks_by_rank(placement);
  for (size_t p = 0; p < chunks.size(); p++)
    for (auto chunk = chunks[p].rbegin(); chunk != chunks[p].rend(); ++chunk)
      for (int microbatch = 0; microbatch < micro_batches; microbatch++)
        schedule.actions[p].push_back(action(ActionKind::Backward, *chunk, microbatch));
  return schedule;
}

ComputeSchedule one_f_one_b(const Placement& placement, int micro_batches) {
  expect_countable(micro_batches);
  const int pp = placement.ranks();
  if (placement.chunks() != pp)
    throw ConfigError(
        {fmt::format("parallel.schedule = \"1f1b\" cannot run {} chunks of the model on {} pipeline ranks", placement.chunks(), pp),
         {},
         "one chunk a rank",
         "\"gpipe\" runs several chunks a rank"});
  ComputeSchedule schedule;
  schedule.actions.resize(pp);
  for (int chunk = 0; chunk < pp; chunk++) {
    const int p = placement.rank_of_chunk[chunk];
    const int warmup = std::min(micro_batches, pp - 1 - chunk);
    for (int microbatch = 0; microbatch < warmup; microbatch++)
      schedule.actions[p].push_back(action(ActionKind::Forward, chunk, microbatch));
    for (int microbatch = 0; microbatch < micro_batches; microbatch++) {
      if (warmup + microbatch < micro_batches) schedule.actions[p].push_back(action(ActionKind::Forward, chunk, warmup + microbatch));
      schedule.actions[p].push_back(action(ActionKind::Backward, chunk, microbatch));
    }
  }
  return schedule;
}

ComputeSchedule make_schedule(const std::string& name, const Placement& placement, int micro_batches) {
  if (name == "gpipe") return gpipe(placement, micro_batches);
  if (name == "1f1b") return one_f_one_b(placement, micro_batches);
  const std::string nearest = nearest_name(name, std::vector<std::string>{"gpipe", "1f1b"});
  throw ConfigError({fmt::format("parallel.schedule = \"{}\" is not a schedule", name),
                     {},
                     "\"gpipe\", \"1f1b\"",
                     nearest.empty() ? "" : fmt::format("did you mean \"{}\"?", nearest)});
}

}  // namespace tessera
