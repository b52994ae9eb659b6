#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm.h"

namespace tessera {

/// What another rank's abort() must reach, from its thread. It may outlive the communicator.
class Abortable {
 public:
  virtual ~Abortable() = default;
  /// Ends what is under way without waiting for peers; the communicator's next call throws ReleasedError with `message`.
  virtual void abort(const std::string& message) noexcept = 0;
};

/// A member of a group that is to be made: the same for all members, but `coordinate` and `gpu`.
struct NcclMember {
  std::string name;              // of the group, for errors
  std::vector<int> ranks;        // of the world, by coordinate
  int coordinate = 0;            // this member's
  int gpu = 0;                   // this member's alone
  WaitReason reason{};           //
  std::vector<std::string> ids;  // nccl_ids_of(reason) of them, made by one member
  double timeout_seconds = 600;  // for the other members to come
};

/// One communicator of NCCL's runs its work in order. In a pipeline receives are posted ahead of sends, so there they take turns in two: what
/// a rank sends, and what it receives from its neighbours.
inline int nccl_ids_of(WaitReason reason) { return reason == WaitReason::Pp ? 2 : 1; }

/// What libtessera_cuda.so offers to communicators, through its C function `tessera_nccl_module`.
class NcclModule {
 public:
  virtual ~NcclModule() = default;
  /// "2.27.7", or why NCCL cannot be used, say "libnccl.so.2: not found".
  virtual std::string version(bool& usable) const = 0;
  virtual std::string unique_id() const = 0;
  /// Collective over the group. `keep` is given what abort() must reach, before anything waits for other ranks.
  virtual std::unique_ptr<Comm> make_comm(const NcclMember& member, const std::function<void(std::shared_ptr<Abortable>)>& keep) const = 0;
};

}  // namespace tessera
