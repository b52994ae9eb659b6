#include "parallel/nccl_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "kernels/cuda_module.h"
#include "parallel/nccl_module.h"

namespace tessera {
namespace {

/// nullptr and the reason where NCCL cannot be used.
const NcclModule* nccl_module(std::string& version_or_why_not) {
  const CudaModuleLoad& load = cuda_module();
  using Entry = const NcclModule* (*)();
  const auto entry = reinterpret_cast<Entry>(load.function("tessera_nccl_module"));
  if (!entry) {
    version_or_why_not = load.module ? "libtessera_cuda.so is of another build" : load.why_not;
    return nullptr;
  }
  bool usable = false;
  version_or_why_not = entry()->version(usable);
  return usable ? entry() : nullptr;
}

class NcclGroup final : public HostGroup {
 public:
  NcclGroup(HostGroup& host, const NcclModule& nccl, int gpu) : host_(host), nccl_(nccl), gpu_(gpu) {
    host_.set_on_abort([this](const std::string& message) { release(message); });
  }
  ~NcclGroup() override { host_.set_on_abort({}); }

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  std::string broadcast(std::string bytes) override { return host_.broadcast(std::move(bytes)); }
  std::vector<std::string> gather(std::string bytes) override { return host_.gather(std::move(bytes)); }
  void barrier(double timeout_seconds) override { host_.barrier(timeout_seconds); }
  void abort(const std::string& message) noexcept override { host_.abort(message); }

  std::unique_ptr<Comm> make_comm(const std::vector<int>& ranks, const std::string& name, WaitReason reason) override {
    const auto own = std::ranges::find(ranks, rank());
    if (own == ranks.end()) throw InternalError("group " + name + " does not hold rank " + std::to_string(rank()));
    const bool makes_ids = ranks.size() > 1 && rank() == ranks.front();
    std::string ids;
    for (int i = 0; makes_ids && i < nccl_ids_of(reason); i++) ids += nccl_.unique_id();
    const std::string group_ids = host_.gather(ids)[static_cast<size_t>(ranks.front())];
    if (ranks.size() == 1) return make_self_comm(reason);

    NcclMember member{
        .name = name, .ranks = ranks, .coordinate = static_cast<int>(own - ranks.begin()), .gpu = gpu_, .reason = reason, .ids = {}};
    const size_t count = static_cast<size_t>(nccl_ids_of(reason)), bytes = group_ids.size() / count;
    for (size_t i = 0; i < count; i++) member.ids.push_back(group_ids.substr(i * bytes, bytes));
    return nccl_.make_comm(member, [this](std::shared_ptr<Abortable> comm) { keep(std::move(comm)); });
  }

 private:
  void keep(std::shared_ptr<Abortable> comm) {
    std::string message;
    {
      const std::lock_guard lock(mutex_);
      if (!released_) {
        std::erase_if(comms_, [](const auto& other) { return other.expired(); });
        comms_.push_back(comm);
        return;
      }
      message = message_;
    }
    comm->abort(message);
  }

  void release(const std::string& message) {
    const std::lock_guard lock(mutex_);
    released_ = true;
    message_ = message;
    for (const auto& comm : comms_) {
      if (const auto alive = comm.lock()) alive->abort(message);
    }
  }

  HostGroup& host_;
  const NcclModule& nccl_;
  int gpu_;
  std::mutex mutex_;  // release() is another rank's
  std::vector<std::weak_ptr<Abortable>> comms_;
  bool released_ = false;
  std::string message_;
};

/// Why these ranks cannot use NCCL: the first reason of any; empty when they can. The same on all ranks.
std::string why_not_nccl(HostGroup& host, int gpu, const std::string& own_reason) {
  const std::vector<std::string> gpus = host.gather(std::to_string(gpu)), reasons = host.gather(own_reason);
  for (const std::string& reason : reasons) {
    if (!reason.empty()) return reason;
  }
  std::map<std::string, size_t> rank_of_gpu;
  for (size_t rank = 0; rank < gpus.size(); rank++) {
    const auto [other, first] = rank_of_gpu.try_emplace(gpus[rank], rank);
    if (!first) return fmt::format("ranks {} and {} share GPU {}, which NCCL refuses", other->second, rank, gpus[rank]);
  }
  return {};
}

}  // namespace

Communicator communicator_of(const std::string& name) {
  return name == "threads" ? Communicator::Threads : name == "nccl" ? Communicator::Nccl : Communicator::Auto;
}

std::unique_ptr<HostGroup> make_nccl_group(HostGroup& host, int gpu, Communicator wanted) {
  if (wanted == Communicator::Threads || (wanted == Communicator::Auto && (gpu < 0 || host.size() == 1))) return nullptr;
  std::string reason;
  const NcclModule* nccl = nullptr;
  if (gpu < 0) {
    reason = "it connects GPUs, and this rank runs on none";
  } else {
    nccl = nccl_module(reason);
    if (nccl) reason.clear();
  }
  reason = why_not_nccl(host, gpu, reason);
  if (reason.empty()) return std::make_unique<NcclGroup>(host, *nccl, gpu);
  if (wanted == Communicator::Auto) return nullptr;
  throw ConfigError(
      {"NCCL cannot be used: " + reason, "parallel.communicator = nccl", "auto, threads", "`tessera info` says what NCCL there is"});
}

std::string nccl_version() {
  std::string version;
  nccl_module(version);
  return version;
}

}  // namespace tessera
