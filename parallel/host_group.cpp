#include "parallel/host_group.h"

#include <algorithm>

#include "base/error.h"

namespace tessera {

namespace {

/// A world in which nobody answers, and nobody has to: of one rank, or of many that are only imagined.
class LoneGroup final : public HostGroup {
 public:
  LoneGroup(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string broadcast(std::string bytes) override { return bytes; }
  std::vector<std::string> gather(std::string bytes) override { return std::vector<std::string>(size_, bytes); }
  void barrier(double) override {}
  void abort(const std::string&) noexcept override {}

  std::unique_ptr<Comm> make_comm(const std::vector<int>& ranks, const std::string& name, WaitReason reason) override {
    const auto own = std::find(ranks.begin(), ranks.end(), rank_);
    if (own == ranks.end()) throw InternalError("group " + name + " does not hold rank " + std::to_string(rank_));
    if (ranks.size() == 1) return make_self_comm(reason);
    return make_null_comm(static_cast<int>(own - ranks.begin()), static_cast<int>(ranks.size()), reason);
  }

 private:
  int rank_, size_;
};

}  // namespace

std::unique_ptr<HostGroup> make_self_group() { return std::make_unique<LoneGroup>(0, 1); }

std::unique_ptr<HostGroup> make_null_group(int rank, int size) {
  invariant(size >= 1 && rank >= 0 && rank < size, "make_null_group: no such rank");
  return std::make_unique<LoneGroup>(rank, size);
}

}  // namespace tessera
