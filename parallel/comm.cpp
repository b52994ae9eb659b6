#include "parallel/comm.h"

#include <string>

#include "base/error.h"

namespace tessera {

namespace {

int64_t part_elements(std::span<const int64_t> bounds, int part) { return bounds[part + 1] - bounds[part]; }

void expect_parts(const char* op, const Tensor& buffer, std::span<const int64_t> bounds, int size) {
  const auto fail = [&](const std::string& what) { throw InternalError(std::string(op) + ": " + what); };
  if (buffer.shape.rank() != 1 || !buffer.contiguous()) fail("the buffer is " + buffer.shape.text() + ", expected flat and contiguous");
  if (static_cast<int>(bounds.size()) != size + 1) {
    fail(std::to_string(bounds.size()) + " bounds, expected " + std::to_string(size + 1) + " for a group of " + std::to_string(size));
  }
  if (bounds.front() != 0 || bounds.back() != buffer.elements()) {
    fail("the bounds span [" + std::to_string(bounds.front()) + ", " + std::to_string(bounds.back()) + "), expected all " +
         std::to_string(buffer.elements()) + " elements");
  }
  for (int r = 0; r < size; r++) {
    if (part_elements(bounds, r) < 0) fail("the bounds of part " + std::to_string(r) + " run backwards");
  }
}

}  // namespace

Event Comm::all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream) {
  expect_parts("all_gather", whole, bounds, size_);
  if (size_ == 1) return {};
  const int64_t own = part_elements(bounds, rank_), width = bytes_of(whole.dtype);
  stream.note({.kind = OpKind::AllGather,
               .shape = {{size_, own, whole.elements()}, whole.dtype},
               .read_bytes = (size_ - 1) * own * width,
               .write_bytes = (whole.elements() - own) * width});
  return do_all_gather(whole, bounds, stream);
}

Event Comm::all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream) {
  expect_parts("all_to_all", full, bounds, size_);
  const int64_t own = part_elements(bounds, rank_), width = bytes_of(full.dtype);
  if (own > 0 && (pieces.shape != Shape{size_, own} || pieces.dtype != full.dtype || !pieces.contiguous())) {
    throw InternalError("all_to_all: pieces is " + pieces.shape.text() + " " + name_of(pieces.dtype) + ", expected contiguous " +
                        Shape{size_, own}.text() + " " + name_of(full.dtype));
  }
  if (size_ == 1) {
    invariant(own == 0 || pieces.data == full.data, "all_to_all: in a group of one, pieces must be full's own memory");
    return {};
  }
  stream.note({.kind = OpKind::AllToAll,
               .shape = {{size_, own, full.elements()}, full.dtype},
               .read_bytes = (full.elements() - own) * width,
               .write_bytes = (size_ - 1) * own * width});
  return do_all_to_all(pieces, full, bounds, stream);
}

Event Comm::p2p(std::span<const P2p> batch, Stream& stream) {
  for (const P2p& transfer : batch) {
    invariant(transfer.buffer.contiguous(), "p2p: a buffer is not contiguous");
    if (transfer.peer < 0 || transfer.peer >= size_ || transfer.peer == rank_) {
      throw InternalError("p2p: peer " + std::to_string(transfer.peer) + " for rank " + std::to_string(rank_) + " in a group of " +
                          std::to_string(size_));
    }
  }
  for (const auto& [kind, buffer, peer] : batch) {
    const bool sends = kind == P2p::Kind::Send;
    stream.note({.kind = sends ? OpKind::Send : OpKind::Receive,
                 .shape = {{buffer.elements(), peer}, buffer.dtype},
                 .read_bytes = sends ? buffer.bytes() : 0,
                 .write_bytes = sends ? 0 : buffer.bytes()});
  }
  return batch.empty() ? Event{} : do_p2p(batch, stream);
}

}  // namespace tessera
