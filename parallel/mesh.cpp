#include "parallel/mesh.h"

#include <numeric>
#include <string>

#include "base/error.h"

namespace tessera {

namespace {

Layout checked(const Layout& layout, const HostGroup& host) {
  if (layout.ranks() == host.size()) return layout;
  std::string product;
  for (int axis = 0; axis < axes; axis++) {
    product += std::string(axis ? " x " : "") + name_of(static_cast<Axis>(axis)) + " " + std::to_string(layout.degrees[axis]);
  }
  throw ConfigError({.what = "the layout needs " + std::to_string(layout.ranks()) + " ranks (" + product + "), but " +
                             std::to_string(host.size()) + " run",
                     .legal = "degrees whose product is " + std::to_string(host.size())});
}

WaitReason reason_of(Axis axis) {
  switch (axis) {
    case Axis::Pp:
      return WaitReason::Pp;
    case Axis::Dp:
      return WaitReason::Dp;
    default:
      return WaitReason::Tp;  // inside a layer, where nothing can hide it
  }
}

}  // namespace

Mesh::Mesh(const Layout& layout, HostGroup& host)
    : layout_(checked(layout, host)), rank_(host.rank()), coordinates_(coordinates_of(layout, host.rank())), host_(host) {
  for (int a = 0; a < axes; a++) {
    const Axis axis = static_cast<Axis>(a);
    comms_[a] = host.make_comm(group_of(layout, axis, rank_), axis == Axis::Pp ? "pp forward" : name_of(axis), reason_of(axis));
  }
  pipe_backward_ = host.make_comm(group_of(layout, Axis::Pp, rank_), "pp backward", WaitReason::Pp);

  std::vector<int> tied = tied_group_of(layout, rank_);
  if (tied.empty()) tied = {rank_};  // all ranks make the same calls
  tied_ = host.make_comm(tied, "tied", WaitReason::Tied);

  std::vector<int> everyone(host.size());
  std::iota(everyone.begin(), everyone.end(), 0);
  world_ = host.make_comm(everyone, "world", WaitReason::Control);
}

Mesh::~Mesh() {
  for (Stream* stream : streams_) {
    for (Comm* comm : all()) stream->remove_progress(comm->pending());
  }
}

void Mesh::progress_on(Stream& stream) {
  streams_.push_back(&stream);
  for (Comm* comm : all()) {
    if (Pending* pending = comm->pending()) stream.add_progress(pending);
  }
}

std::vector<Comm*> Mesh::all() {
  std::vector<Comm*> comms = {pipe_backward_.get(), tied_.get(), world_.get()};
  for (const auto& comm : comms_) comms.push_back(comm.get());
  return comms;
}

}  // namespace tessera
