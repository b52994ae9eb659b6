#pragma once
#include <array>
#include <memory>

#include "parallel/comm.h"
#include "parallel/host_group.h"
#include "parallel/layout.h"

namespace tessera {

/// One rank's place and its communicators by named axis.
class Mesh {
 public:
  Mesh(const Layout& layout, HostGroup& host);
  const Layout& layout() const { return layout_; }
  int rank() const { return rank_; }
  int coordinate(Axis axis) const { return coordinates_[static_cast<int>(axis)]; }
  Comm& comm(Axis axis) { return *comms_[static_cast<int>(axis)]; }
  /// Towards the next stage and towards the previous one have communicators of their own, so that their order is free.
  Comm& pipe_forward() { return *comms_[static_cast<int>(Axis::Pp)]; }
  Comm& pipe_backward() { return *pipe_backward_; }
  /// First and last stage, where a tied weight's gradients meet; a group of one on the stages between.
  Comm& tied() { return *tied_; }
  Comm& world() { return *world_; }
  HostGroup& host() { return host_; }

 private:
  Layout layout_;
  int rank_;
  Coordinates coordinates_;
  HostGroup& host_;
  std::array<std::unique_ptr<Comm>, axes> comms_;
  std::unique_ptr<Comm> pipe_backward_, tied_, world_;
};

}  // namespace tessera
