#include <algorithm>
#include <exception>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>

#include "base/units.h"
#include "parallel/host_group.h"
#include "parallel/threads_comm.h"

namespace tessera {

ThreadsWorld::ThreadsWorld(int ranks, double timeout_seconds)
    : ranks_(ranks), timeout_seconds_(timeout_seconds), releases_(static_cast<size_t>(ranks)) {}

void ThreadsWorld::wake(int rank) {
  ranks_[rank].version++;
  ranks_[rank].changed.notify_one();  // only the rank's own thread waits there
}

void ThreadsWorld::make_progress(std::unique_lock<std::mutex>& lock, int rank) {
  Rank& self = ranks_[rank];
  self.seen = self.version;
  for (ThreadsComm* comm : self.comms) comm->receive_ready(lock);
}

void ThreadsWorld::throw_if_aborted(int rank, const std::string& what) const {
  if (!aborted_) return;
  throw ReleasedError({.what = what + " on rank " + std::to_string(rank) + " was released: " + abort_message_});
}

std::vector<int> ThreadsWorld::ended_among(std::vector<int> ranks) const {
  std::erase_if(ranks, [&](int rank) { return !ranks_[rank].ended; });
  return ranks;
}

std::vector<std::string> ThreadsWorld::exchange(int rank, const char* call, std::string bytes, double timeout_seconds) {
  std::unique_lock lock(mutex_);
  throw_if_aborted(rank, call);
  Rank& self = ranks_[rank];
  const uint64_t round = round_;
  self.call = call;
  self.bytes = std::move(bytes);
  if (++arrivals_ == ranks()) {
    for (int r = 0; r < ranks(); r++) {
      if (std::string_view(ranks_[r].call) != call) {
        throw InternalError("rank " + std::to_string(rank) + " calls " + call + " where rank " + std::to_string(r) + " calls " +
                            ranks_[r].call);
      }
    }
    exchanged_.clear();
    for (Rank& other : ranks_) {
      exchanged_.push_back(std::move(other.bytes));
      other.call = nullptr;
    }
    arrivals_ = 0;
    round_++;
    for (int r = 0; r < ranks(); r++) wake(r);
  }

  const auto missing = [&] {
    std::vector<int> absent;
    for (int r = 0; r < ranks(); r++) {
      if (!ranks_[r].call) absent.push_back(r);
    }
    return absent;
  };
  const auto leave = [&](const std::string& why) {
    self.call = nullptr;  // so that the next call of this rank is not counted twice
    arrivals_--;
    throw CommError({.what = std::string(call) + " on rank " + std::to_string(rank) + why});
  };
  Patience patience(timeout_seconds, Patience::Clock::now());
  while (round_ == round) {
    make_progress(lock, rank);  // a peer may need our copy before it can arrive
    if (round_ != round) break;
    if (const auto ended = ended_among(missing()); !ended.empty()) leave(" waits for " + ranks_text(ended) + ", which ended without it");
    self.changed.wait_until(lock, patience.next_look(), [&] { return aborted_ || round_ != round || self.version != self.seen; });
    if (round_ != round) break;  // complete, whatever has happened since
    throw_if_aborted(rank, call);
    if (patience.ended(Patience::Clock::now()) && self.version == self.seen)
      leave(" waited " + format_seconds(timeout_seconds) + " for " + ranks_text(missing()));
  }
  return exchanged_;  // stays as it is until this rank, too, has arrived at the next exchange
}

void ThreadsWorld::abort(const std::string& message) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!aborted_) {
      aborted_ = true;
      try {
        abort_message_ = message;
      } catch (const std::bad_alloc&) {  // released without a reason is better than not released
      }
    }
    for (int r = 0; r < ranks(); r++) wake(r);
  }
  const std::lock_guard lock(releases_mutex_);
  for (auto& release : releases_) {
    if (const auto once = std::exchange(release, {})) once(abort_message_);
  }
}

void ThreadsWorld::set_on_abort(int rank, std::function<void(const std::string&)> release) {
  const std::lock_guard lock(releases_mutex_);
  bool aborted = false;
  {
    const std::lock_guard world(mutex_);
    aborted = aborted_;
  }
  if (aborted && release) return release(abort_message_);
  releases_[static_cast<size_t>(rank)] = std::move(release);
}

void ThreadsWorld::end(int rank) {
  const std::lock_guard lock(mutex_);
  ranks_[rank].ended = true;
  for (int r = 0; r < ranks(); r++) wake(r);
}

std::shared_ptr<ThreadsGroup> ThreadsWorld::join(const std::vector<int>& ranks, const std::string& name, int coordinate) {
  const std::lock_guard lock(mutex_);
  auto found = std::ranges::find_if(
      forming_, [&](const auto& group) { return group->name == name && group->ranks == ranks && !group->joined[coordinate]; });
  if (found == forming_.end()) found = forming_.insert(found, std::make_shared<ThreadsGroup>(ranks, name));
  const std::shared_ptr<ThreadsGroup> group = *found;
  group->joined[coordinate] = true;
  if (std::ranges::all_of(group->joined, [](bool joined) { return joined; })) forming_.erase(found);
  return group;
}

namespace {

/// Who is missing here is alive, or the wait would have ended: at work, perhaps saving to a slow disk, or in a wait that has its own limit.
constexpr double as_long_as_it_takes = std::numeric_limits<double>::infinity();

class ThreadsHostGroup final : public HostGroup {
 public:
  ThreadsHostGroup(ThreadsWorld& world, int rank) : world_(world), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return world_.ranks(); }

  std::string broadcast(std::string bytes) override {
    return world_.exchange(rank_, "broadcast", rank_ == 0 ? std::move(bytes) : std::string(), as_long_as_it_takes).front();
  }
  std::vector<std::string> gather(std::string bytes) override {
    return world_.exchange(rank_, "gather", std::move(bytes), as_long_as_it_takes);
  }
  void barrier(double timeout_seconds) override { world_.exchange(rank_, "barrier", {}, timeout_seconds); }
  void abort(const std::string& message) noexcept override { world_.abort(message); }
  void set_on_abort(std::function<void(const std::string&)> release) override { world_.set_on_abort(rank_, std::move(release)); }

  std::unique_ptr<Comm> make_comm(const std::vector<int>& ranks, const std::string& name, WaitReason reason) override {
    const auto own = std::ranges::find(ranks, rank_);
    if (own == ranks.end()) throw InternalError("group " + name + " does not hold rank " + std::to_string(rank_));
    for (int rank : ranks) {
      invariant(rank >= 0 && rank < size() && std::ranges::count(ranks, rank) == 1,
                "a group names a rank twice, or one that does not exist");
    }
    if (ranks.size() == 1) return make_self_comm(reason);
    const int coordinate = static_cast<int>(own - ranks.begin());
    return std::make_unique<ThreadsComm>(world_, world_.join(ranks, name, coordinate), coordinate, reason);
  }

 private:
  ThreadsWorld& world_;
  int rank_;
};

/// Keeps the error to show: the first that is not another's consequence, otherwise the first.
class FirstError {
 public:
  /// The message for the other ranks.
  std::string take(int rank) {
    bool follows = false;
    std::string message = "rank " + std::to_string(rank) + ": ";
    try {
      throw;
    } catch (const ReleasedError& error) {
      follows = true;
      message += error.text().what;
    } catch (const Error& error) {
      message += error.text().what;
    } catch (const std::exception& error) {
      message += error.what();
    } catch (...) {
      message += "unknown error";
    }
    const std::lock_guard lock(mutex_);
    if (!error_ || (error_follows_ && !follows)) error_ = std::current_exception(), error_follows_ = follows;
    return message;
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
  bool error_follows_ = false;
};

}  // namespace

void run_thread_ranks(int ranks, const std::function<void(HostGroup&)>& body, double timeout_seconds) {
  invariant(ranks >= 1, "run_thread_ranks needs a rank");
  ThreadsWorld world(ranks, timeout_seconds);
  FirstError first;
  const auto run = [&](int rank) {
    try {
      ThreadsHostGroup group(world, rank);
      body(group);
      world.end(rank);
    } catch (...) {
      world.abort(first.take(rank));
    }
  };
  std::vector<std::jthread> threads;
  threads.reserve(ranks);
  try {
    for (int rank = 0; rank < ranks; rank++) threads.emplace_back(run, rank);
  } catch (const std::system_error& error) {
    const std::string started = std::to_string(threads.size());
    world.abort("not all ranks could be started");
    threads.clear();
    throw ConfigError({.what = "the system starts only " + started + " of " + std::to_string(ranks) + " threads: " + error.what(),
                       .where = "",
                       .legal = "",
                       .hint = "run with fewer ranks"});
  }
  threads.clear();  // joins
  first.rethrow();
}

}  // namespace tessera
