#include "base/error.h"
#include "parallel/comm.h"

namespace tessera {

namespace {

/// Checked, priced and traced by Comm; here nothing is left to do.
class NullComm final : public Comm {
 public:
  using Comm::Comm;

 private:
  Event do_all_gather(Tensor, std::span<const int64_t>, Stream&) override { return {}; }
  Event do_all_to_all(Tensor, Tensor, std::span<const int64_t>, Stream&) override { return {}; }
  Event do_p2p(std::span<const P2p>, Stream&) override { return {}; }
};

}  // namespace

std::unique_ptr<Comm> make_null_comm(int rank, int size, WaitReason reason) {
  invariant(size >= 1 && rank >= 0 && rank < size, "make_null_comm: no such rank in the group");
  return std::make_unique<NullComm>(rank, size, reason);
}

}  // namespace tessera
