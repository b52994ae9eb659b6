#pragma once
#include <array>
#include <memory>
#include <vector>

#include "parallel/comm.h"
#include "parallel/host_group.h"
#include "parallel/layout.h"

namespace tessera {

/// One rank's place and its communicators by named axis. Collective over all ranks. It must end before `host` and the streams it serves.
class Mesh {
 public:
  /// ConfigError when the layout asks for another number of ranks than there are.
  Mesh(const Layout& layout, HostGroup& host);
  ~Mesh();
  Mesh(const Mesh&) = delete;

  const Layout& layout() const { return layout_; }
  int rank() const { return rank_; }
  int coordinate(Axis axis) const { return coordinates_[static_cast<int>(axis)]; }
  Comm& comm(Axis axis) { return *comms_[static_cast<int>(axis)]; }
  /// Activations towards the next stage and gradients towards the previous one have communicators of their own, so that their order is
  /// free.
  Comm& pipe_forward() { return *comms_[static_cast<int>(Axis::Pp)]; }
  Comm& pipe_backward() { return *pipe_backward_; }
  /// First and last stage, where a tied weight's gradients meet; a group of one on the stages between.
  Comm& tied() { return *tied_; }
  Comm& world() { return *world_; }
  HostGroup& host() { return host_; }

  /// From now on the ops of `stream` also move what is pending in these communicators, until the mesh ends.
  void progress_on(Stream& stream);

 private:
  std::vector<Comm*> all();

  Layout layout_;
  int rank_;
  Coordinates coordinates_;
  HostGroup& host_;
  std::array<std::unique_ptr<Comm>, axes> comms_;
  std::unique_ptr<Comm> pipe_backward_, tied_, world_;
  std::vector<Stream*> streams_;
};

}  // namespace tessera
