// NCCL between threads of one process, each with an emulated GPU, behind its C functions. TESSERA_NCCL names the library that holds it. As
// NCCL's user guide has it: what stands between GroupStart and GroupEnd starts together; a transfer begins when the streams of both sides
// have come to it, and both go on when it has ended; work of one communicator runs in order; two ranks' first transfer connects them, until
// when the state is "in progress"; one GPU cannot be two ranks. Only non-blocking communicators. A fault where NCCL would hang or corrupt.
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "parallel/nccl/nccl_library.h"
#include "tests/cuda_emulation/emulator.h"

using namespace cuda_emulation;  // the functions below have C names
using tessera::nccl::Config;
using tessera::nccl::DataType;
using tessera::nccl::Result;
using tessera::nccl::UniqueId;

namespace {

struct Batch;

/// One message: known to its sender, to its receiver, or to both.
struct Transfer {
  Batch *sender = nullptr, *receiver = nullptr;
  const void* from = nullptr;
  void* to = nullptr;
  size_t sent_bytes = 0, received_bytes = 0;
  bool copied = false;
  bool met() const { return sender && receiver; }
};
using Transfers = std::vector<std::shared_ptr<Transfer>>;

/// What one GroupEnd starts on one communicator.
struct Batch {
  ncclComm* comm;
  Transfers sends, receives;
  bool arrived = false;  // its stream has come to it
};

using Pair = std::pair<int, int>;
enum class Lane { PointToPoint, Collective };

struct Clique {
  int size = 0;
  std::set<int> ranks, gpus;
  size_t ended = 0;
  bool invalid = false;
  std::map<std::pair<Lane, Pair>, std::deque<std::shared_ptr<Transfer>>> half_known;  // by source and destination
  std::set<std::pair<Lane, Pair>> connected;
};

std::map<std::string, std::shared_ptr<Clique>>& cliques() {
  static auto* all = new std::map<std::string, std::shared_ptr<Clique>>;
  return *all;
}

}  // namespace

struct ncclComm {
  std::shared_ptr<Clique> clique;
  int rank = 0;
  bool aborted = false, finalized = false;
  std::vector<std::shared_ptr<Batch>> batches;   // for as long as peers may look at them
  std::vector<std::shared_ptr<Transfer>> first;  // of pairs that were not connected when they were posted
};

namespace {

std::set<ncclComm*>& live_comms() {
  static auto* live = new std::set<ncclComm*>;
  return *live;
}

struct Posted {
  ncclComm* comm;
  cudaStream_t stream;
  Lane lane;
  bool sends;
  void* memory;
  size_t bytes;
  int peer;
};
thread_local int group_depth = 0;
thread_local std::vector<Posted> posted;

/// The oldest transfer of this pair that lacks this side, or a new one.
std::shared_ptr<Transfer> meet(const Posted& p, Batch* batch) {
  const Pair pair = p.sends ? Pair{p.comm->rank, p.peer} : Pair{p.peer, p.comm->rank};
  auto& waiting = p.comm->clique->half_known[{p.lane, pair}];
  const bool found = !waiting.empty() && (p.sends ? !waiting.front()->sender : !waiting.front()->receiver);
  const std::shared_ptr<Transfer> transfer = found ? waiting.front() : std::make_shared<Transfer>();
  found ? waiting.pop_front() : waiting.push_back(transfer);
  if (p.sends) transfer->sender = batch, transfer->from = p.memory, transfer->sent_bytes = p.bytes;
  if (!p.sends) transfer->receiver = batch, transfer->to = p.memory, transfer->received_bytes = p.bytes;
  if (transfer->met() && transfer->sent_bytes != transfer->received_bytes) {
    fault("NCCL: rank %d sends %zu bytes, rank %d receives %zu", pair.first, transfer->sent_bytes, pair.second, transfer->received_bytes);
  }
  if (!p.comm->clique->connected.contains({p.lane, pair})) p.comm->first.push_back(transfer);
  if (transfer->met()) p.comm->clique->connected.insert({p.lane, pair});
  return transfer;
}

bool ready(Batch& batch) {
  batch.arrived = true;
  if (batch.comm->aborted) return true;
  for (const Transfers* side : {&batch.sends, &batch.receives}) {
    for (const auto& transfer : *side) {
      if (!transfer->met() || !transfer->sender->arrived || !transfer->receiver->arrived) return false;
    }
  }
  return true;
}

void copy_received(const Batch& batch) {
  if (batch.comm->aborted) return;
  for (const auto& transfer : batch.receives) {
    std::memcpy(transfer->to, transfer->from, transfer->received_bytes);
    transfer->copied = true;
  }
}

bool all_read(const Batch& batch) {
  if (batch.comm->aborted) return true;
  for (const auto& transfer : batch.sends) {
    if (!transfer->copied) return false;
  }
  return true;
}

void start(ncclComm* comm, const std::vector<Posted>& all) {
  const auto batch = std::make_shared<Batch>();
  batch->comm = comm;
  comm->batches.push_back(batch);
  cudaStream_t stream = nullptr;
  for (const Posted& p : all) {
    if (p.comm != comm) continue;
    if (stream && p.stream != stream) fault("NCCL: a group on two streams is not emulated");
    stream = p.stream;
    (p.sends ? batch->sends : batch->receives).push_back(meet(p, batch.get()));
  }
  enqueue_when(
      stream, [batch] { return ready(*batch); }, [batch] { copy_received(*batch); });
  enqueue_when(
      stream, [batch] { return all_read(*batch); }, [] {});
}

Result state_of(const ncclComm& comm) {
  if (comm.clique->invalid) return Result::InvalidUsage;
  if (comm.clique->ranks.size() < static_cast<size_t>(comm.clique->size)) return Result::InProgress;
  for (const auto& transfer : comm.first) {
    if (!transfer->met()) return Result::InProgress;
  }
  return comm.finalized && comm.clique->ended < comm.clique->ranks.size() ? Result::InProgress : Result::Success;
}

Result post(const Posted& p) {
  Result result = Result::Success;
  locked([&] {
    const bool usable = live_comms().contains(p.comm) && p.peer >= 0 && p.peer < p.comm->clique->size && p.peer != p.comm->rank;
    if (!usable || !p.stream || !p.memory || state_of(*p.comm) != Result::Success) result = Result::InvalidArgument;
  });
  if (result == Result::Success) posted.push_back(p);
  return result;
}

}  // namespace

extern "C" {

Result ncclGetVersion(int* version) {
  *version = 22700;
  return Result::Success;
}

Result ncclGetUniqueId(UniqueId* id) {
  locked([&] {
    *id = {};
    std::snprintf(id->internal, sizeof id->internal, "clique %zu", cliques().size());
    cliques()[id->internal] = std::make_shared<Clique>();
  });
  return Result::Success;
}

const char* ncclGetErrorString(Result result) {
  return result == Result::InvalidArgument ? "invalid argument" : result == Result::InvalidUsage ? "invalid usage" : "other";
}

Result ncclCommInitRankConfig(ncclComm** comm, int size, UniqueId id, int rank, Config* config) {
  if (config->magic != 0xcafebeef || config->size < sizeof(Config) || config->blocking != 0)
    fault("NCCL: such a configuration is not emulated");
  Result result = Result::InProgress;
  locked([&] {
    const auto found = cliques().find(id.internal);
    if (found == cliques().end() || rank < 0 || rank >= size) {
      result = Result::InvalidArgument;
      return;
    }
    Clique& clique = *found->second;
    if (clique.size == 0) clique.size = size;
    if (clique.size != size || !clique.ranks.insert(rank).second || !clique.gpus.insert(current_gpu()).second) clique.invalid = true;
    *comm = new ncclComm;
    (*comm)->clique = found->second;
    (*comm)->rank = rank;
    live_comms().insert(*comm);
  });
  return result;
}

Result ncclCommGetAsyncError(ncclComm* comm, Result* state) {
  Result result = Result::Success;
  locked([&] {
    if (live_comms().contains(comm)) {
      *state = state_of(*comm);
    } else {
      result = Result::InvalidArgument;
    }
  });
  return result;
}

Result ncclCommFinalize(ncclComm* comm) {
  locked([&] {
    if (!comm->finalized) comm->clique->ended++;
    comm->finalized = true;
  });
  return Result::InProgress;
}

// Its batches stay: streams and peers look at them.
Result ncclCommDestroy(ncclComm* comm) {
  locked([&] { live_comms().erase(comm); });
  return Result::Success;
}

Result ncclCommAbort(ncclComm* comm) {
  locked([&] {
    comm->aborted = true;
    live_comms().erase(comm);
  });
  return Result::Success;
}

Result ncclGroupStart() {
  group_depth++;
  return Result::Success;
}

Result ncclGroupEnd() {
  if (--group_depth > 0) return Result::Success;
  const std::vector<Posted> all = std::move(posted);
  posted.clear();
  Result result = Result::Success;
  locked([&] {
    std::set<ncclComm*> comms;
    for (const Posted& p : all) comms.insert(p.comm);
    for (ncclComm* comm : comms) {
      start(comm, all);
      if (state_of(*comm) != Result::Success) result = Result::InProgress;
    }
  });
  return result;
}

Result ncclSend(const void* from, size_t count, DataType, int peer, ncclComm* comm, cudaStream_t stream) {
  ncclGroupStart();
  const Result result = post({comm, stream, Lane::PointToPoint, true, const_cast<void*>(from), count, peer});
  const Result ended = ncclGroupEnd();
  return result == Result::Success ? ended : result;
}

Result ncclRecv(void* to, size_t count, DataType, int peer, ncclComm* comm, cudaStream_t stream) {
  ncclGroupStart();
  const Result result = post({comm, stream, Lane::PointToPoint, false, to, count, peer});
  const Result ended = ncclGroupEnd();
  return result == Result::Success ? ended : result;
}

// In place only.
Result ncclAllGather(const void* own, void* whole, size_t count, DataType, ncclComm* comm, cudaStream_t stream) {
  char* parts = static_cast<char*>(whole);
  if (own != parts + count * static_cast<size_t>(comm->rank)) fault("NCCL: all-gather out of place is not emulated");
  ncclGroupStart();
  Result result = Result::Success;
  for (int peer = 0; peer < comm->clique->size; peer++) {
    if (peer == comm->rank) continue;
    for (const bool sends : {true, false}) {
      void* memory = parts + count * static_cast<size_t>(sends ? comm->rank : peer);
      const Result each = post({comm, stream, Lane::Collective, sends, memory, count, peer});
      if (each != Result::Success) result = each;
    }
  }
  const Result ended = ncclGroupEnd();
  return result == Result::Success ? ended : result;
}

}  // extern "C"
