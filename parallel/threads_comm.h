#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "parallel/comm.h"
#include "parallel/host_group.h"

/// Ranks as threads of one process: what they share, and the communicator that copies between their buffers. For threads_group.cpp only.
///
/// Every collective is a set of messages. A sender shows its buffer to the receiver and goes on; the receiver copies from it, without the
/// lock, when it is next asked to make progress, and only then is the sender's part of the work done. Whenever a rank makes progress or
/// sleeps, for whatever reason, it serves all its communicators: so no rank can wait for a copy that a sleeping rank would have to make.
/// Where ops are enqueued, so is the copy, on the receiver's stream of transfers behind what both sides had enqueued when they posted; what a
/// rank enqueues behind its wait comes after the copies by it and from it.
namespace tessera {

/// Measures how long a wait has lasted, without the time in which the whole process was stopped (Ctrl-Z, a laptop that sleeps): it looks at
/// the clock a sixtieth of its limit apart, and counts no more than that between two looks.
class Patience {
 public:
  using Clock = std::chrono::steady_clock;
  /// limit_seconds: positive, or infinite.
  Patience(double limit_seconds, Clock::time_point now);
  /// When to look again, if nothing else happens.
  Clock::time_point next_look() const { return last_ + slice_; }
  /// Looks at the clock: true when the limit has been waited.
  bool ended(Clock::time_point now);

 private:
  Clock::duration slice_;
  Clock::time_point last_;
  double limit_seconds_, waited_seconds_ = 0;
};

class ThreadsComm;

enum class Operation : uint8_t { AllGather, AllToAll, P2p };
const char* name_of(Operation operation);

/// A buffer that its owner has shown to one peer.
struct Message {
  const void* data;
  int64_t bytes;
  Operation operation;
  uint64_t ticket;     // of the sender
  Event posted;        // its buffer holds what it shall
  bool taken = false;  // being copied: its buffer may not go away
};

/// One communicator as all its members see it. Guarded by the lock of the world.
struct ThreadsGroup {
  ThreadsGroup(const std::vector<int>& ranks, const std::string& name);
  /// Messages in order. Collectives and p2p have channels of their own, so either may finish first.
  std::vector<Message>& channel(Operation operation, int source, int destination);

  std::vector<int> ranks;  // of the world, by coordinate
  std::string name;
  std::vector<ThreadsComm*> members;  // by coordinate; nullptr before and after a member's life
  std::vector<bool> joined;           // by coordinate; stays true
  std::vector<std::vector<Message>> channels;
};

/// All ranks of one run_thread_ranks. One lock guards everything but the bytes that travel; each rank sleeps on a condition of its own.
class ThreadsWorld {
 public:
  ThreadsWorld(int ranks, double timeout_seconds);
  int ranks() const { return static_cast<int>(ranks_.size()); }

  /// Every rank's bytes by rank; returns when all ranks have called. `call` stands in errors. An infinite timeout waits as long as it takes.
  std::vector<std::string> exchange(int rank, const char* call, std::string bytes, double timeout_seconds);
  void abort(const std::string& message) noexcept;
  void set_on_abort(int rank, std::function<void(const std::string&)> release);
  /// `rank` will answer nobody any more.
  void end(int rank);
  /// The oldest group of this name and these ranks that `coordinate` has not joined yet.
  std::shared_ptr<ThreadsGroup> join(const std::vector<int>& ranks, const std::string& name, int coordinate);

 private:
  friend class ThreadsComm;
  struct Rank {
    std::condition_variable changed;
    uint64_t version = 0;  // counts what may let this rank go on
    uint64_t seen = 0;     // the version when it last looked
    bool ended = false;
    std::vector<ThreadsComm*> comms;  // of this rank; used by its thread only
    const char* call = nullptr;       // what it has arrived at in exchange()
    std::string bytes;                // what it brought there
  };

  void wake(int rank);
  /// Copies all that has arrived for `rank`, in all its communicators. The lock is released while bytes travel.
  void make_progress(std::unique_lock<std::mutex>& lock, int rank);
  void throw_if_aborted(int rank, const std::string& what) const;
  std::vector<int> ended_among(std::vector<int> ranks) const;

  std::mutex mutex_;
  std::vector<Rank> ranks_;
  std::vector<std::shared_ptr<ThreadsGroup>> forming_;  // groups that not all members have joined
  double timeout_seconds_;
  bool aborted_ = false;
  std::string abort_message_;
  uint64_t round_ = 0;  // exchanges that are complete
  int arrivals_ = 0;    // at the current one
  std::vector<std::string> exchanged_;
  std::mutex releases_mutex_;                                      // taken without the lock above
  std::vector<std::function<void(const std::string&)>> releases_;  // by rank
};

/// One rank's end of a group; used by that rank's thread alone.
class ThreadsComm final : public Comm, public Pending {
 public:
  ThreadsComm(ThreadsWorld& world, std::shared_ptr<ThreadsGroup> group, int rank, WaitReason reason);
  /// Takes back what nobody has read, after those who are reading have finished.
  ~ThreadsComm() override;

  Pending* pending() override { return this; }
  bool advance(uint64_t ticket) override;
  void sleep(uint64_t ticket) override;
  void join(uint64_t ticket, Queue& queue) override;

 private:
  friend class ThreadsWorld;
  struct Receive {
    void* data;
    int64_t bytes;
    Operation operation;
    uint64_t ticket;
    int source;
    Event posted;  // the buffer may be written
  };
  struct Work {
    Operation operation;
    int unread = 0;      // messages of ours that peers have yet to read
    int unreceived = 0;  // messages for us
    bool done() const { return unread == 0 && unreceived == 0; }
  };

  Event do_all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream) override;
  Event do_all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream) override;
  Event do_p2p(std::span<const P2p> batch, Stream& stream) override;

  /// Between begin() and the end of the call the lock is held.
  std::unique_lock<std::mutex> begin(Operation operation, Stream& stream);
  void send(const Tensor& buffer, int destination);
  void receive(const Tensor& buffer, int source);
  Event newest() { return {this, first_ticket_ + work_.size() - 1}; }

  void receive_ready(std::unique_lock<std::mutex>& lock);
  void check(const Receive& receive, const Message& message) const;
  /// Makes the copy, or enqueues it; the point behind it.
  Event copy(const Receive& to, const Message& from);
  void message_read(uint64_t ticket, int reader, Event copied);
  Work& work(uint64_t ticket) { return work_[ticket - first_ticket_]; }
  bool done(uint64_t ticket) { return ticket < first_ticket_ || work(ticket).done(); }
  void forget_finished();
  int world_rank() const { return group_->ranks[rank()]; }
  /// World ranks whose part is missing in `ticket`.
  std::vector<int> missing(uint64_t ticket);
  std::string text(Operation operation) const;

  ThreadsWorld& world_;
  std::shared_ptr<ThreadsGroup> group_;
  std::vector<Receive> receives_;  // in the order in which they were posted
  std::vector<Work> work_;         // tickets first_ticket_, first_ticket_ + 1, ...
  uint64_t first_ticket_ = 1;      // ticket 0 asks for progress alone
  Stream* transfers_ = nullptr;    // where copies are enqueued; nullptr: they are made at once
  Event posted_;                   // of the newest call
  Event received_;                 // the newest copy by this rank
  std::vector<Event> read_by_;     // by coordinate: that member's newest copy from this rank
  uint64_t sleep_ticket_ = 0;      // the ticket last slept for, and for how long
  Patience sleep_patience_;
};

/// "rank 3", "ranks 1, 2 and 5".
std::string ranks_text(const std::vector<int>& ranks);

}  // namespace tessera
