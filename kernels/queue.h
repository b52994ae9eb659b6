#pragma once
#include <cstdint>

namespace tessera {

class Queue;

/// Work that does not finish at once: pending collectives of a communicator, or a device's queue. Ticket k is the k-th piece of work given
/// to it.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Moves whatever can move without waiting; true when `ticket` is finished. Throws CommError when a peer is gone.
  virtual bool advance(uint64_t ticket) = 0;
  /// Sleeps (never spins) until something may have changed. Throws CommError on abort or timeout.
  virtual void sleep(uint64_t ticket) = 0;
  /// False where a queue can wait for `ticket` without the host: then only join() is called.
  virtual bool needs_host() const { return true; }
  /// What `queue` runs from now on comes after `ticket`. Called after advance(ticket) was true, unless the host is not needed: what the
  /// host has done may have been to enqueue.
  virtual void join(uint64_t /*ticket*/, Queue& /*queue*/) {}
};

/// A point in a stream. The default one has already been reached: on the cpu device all ops run inline.
struct Event {
  Pending* pending = nullptr;
  uint64_t ticket = 0;
};

/// What stands behind a stream whose ops run later (on cuda a CUDA stream); a stream without one runs its ops inline. Its tickets are marks:
/// mark k is the k-th point laid between ops. A rank's thread owns it; join() may be called by other threads.
class Queue : public Pending {
 public:
  /// The point behind everything enqueued so far, counted from 1.
  virtual uint64_t mark() = 0;
  /// Seconds of the device from one mark to a later one, both finished, both kept.
  virtual double seconds_between(uint64_t from, uint64_t to) = 0;
  /// Marks before this one are finished with as far as seconds_between is concerned; waiting for them stays possible.
  virtual void keep_from(uint64_t mark) = 0;
  /// Between any two places that the device reaches, host memory that is pinned among them. Memory that is not must stay until the end.
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  virtual void fill(void* to, unsigned char value, int64_t bytes) = 0;
  /// For bodies of the device's own ops: the cudaStream_t.
  virtual void* native() = 0;
  bool needs_host() const override { return false; }
};

}  // namespace tessera
