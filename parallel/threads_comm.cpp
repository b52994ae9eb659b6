#include "parallel/threads_comm.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/units.h"

namespace tessera {

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::AllGather:
      return "all_gather";
    case Operation::AllToAll:
      return "all_to_all";
    case Operation::P2p:
      return "p2p";
  }
  return "?";
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); i++) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

Patience::Patience(double limit_seconds, Clock::time_point now)
    : slice_(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(limit_seconds / 60, 3600.0)))),
      last_(now),
      limit_seconds_(limit_seconds) {}

bool Patience::ended(Clock::time_point now) {
  waited_seconds_ += std::chrono::duration<double>(std::min(now - last_, slice_)).count();
  last_ = now;
  return waited_seconds_ >= limit_seconds_;
}

ThreadsGroup::ThreadsGroup(const std::vector<int>& ranks_, const std::string& name_)
    : ranks(ranks_), name(name_), members(ranks_.size()), joined(ranks_.size()), channels(2 * ranks_.size() * ranks_.size()) {}

std::vector<Message>& ThreadsGroup::channel(Operation operation, int source, int destination) {
  const size_t size = ranks.size(), lane = operation == Operation::P2p;
  return channels[(lane * size + source) * size + destination];
}

ThreadsComm::ThreadsComm(ThreadsWorld& world, std::shared_ptr<ThreadsGroup> group, int rank, WaitReason reason)
    : Comm(rank, static_cast<int>(group->ranks.size()), reason),
      world_(world),
      group_(std::move(group)),
      read_by_(group_->ranks.size()),
      sleep_patience_(world.timeout_seconds_, Patience::Clock::now()) {
  const std::lock_guard lock(world_.mutex_);
  world_.ranks_[world_rank()].comms.push_back(this);
  group_->members[rank] = this;
}

/// The host waits for what is enqueued, however it ends.
static void finish_quietly(Stream& stream) noexcept {
  try {
    stream.finish();
  } catch (const std::exception&) {  // whoever uses the device next hears of it
  }
}

ThreadsComm::~ThreadsComm() {
  if (transfers_) finish_quietly(*transfers_);  // then nobody has to wait for a queue that may end with this rank
  std::unique_lock lock(world_.mutex_);
  for (ThreadsComm* member : group_->members) {
    if (member) member->read_by_[rank()] = {};
  }
  for (const Operation lane : {Operation::AllGather, Operation::P2p}) {
    for (int peer = 0; peer < size(); peer++) {
      std::erase_if(group_->channel(lane, rank(), peer), [&](const Message& message) {
        if (!message.taken) work(message.ticket).unread--;
        return !message.taken;
      });
    }
  }
  // What is left is being copied at this moment, by a peer that waits for nobody while it does so.
  world_.ranks_[world_rank()].changed.wait(lock, [&] { return std::ranges::all_of(work_, [](const Work& w) { return w.unread == 0; }); });
  std::erase(world_.ranks_[world_rank()].comms, this);
  group_->members[rank()] = nullptr;
}

Event ThreadsComm::do_all_gather(Tensor whole, std::span<const int64_t> bounds, Stream& stream) {
  const auto lock = begin(Operation::AllGather, stream);
  const auto part = [&](int r) { return whole.flat_range(bounds[r], bounds[r + 1]); };
  for (int peer = 0; peer < size(); peer++) {
    if (peer == rank()) continue;
    send(part(rank()), peer);
    receive(part(peer), peer);
  }
  return newest();
}

Event ThreadsComm::do_all_to_all(Tensor pieces, Tensor full, std::span<const int64_t> bounds, Stream& stream) {
  const int64_t own = bounds[rank() + 1] - bounds[rank()];
  const auto part = [&](int r) { return full.flat_range(bounds[r], bounds[r + 1]); };
  const auto row = [&](int r) { return own ? pieces.flat().flat_range(r * own, (r + 1) * own) : Tensor(nullptr, full.dtype, {0}); };
  if (own) stream.copy_bytes(row(rank()).data, part(rank()).data, part(rank()).bytes());
  const auto lock = begin(Operation::AllToAll, stream);
  for (int peer = 0; peer < size(); peer++) {
    if (peer == rank()) continue;
    send(part(peer), peer);
    receive(row(peer), peer);
  }
  return newest();
}

Event ThreadsComm::do_p2p(std::span<const P2p> batch, Stream& stream) {
  const auto lock = begin(Operation::P2p, stream);
  for (const auto& [kind, buffer, peer] : batch) {
    if (kind == P2p::Kind::Send) {
      send(buffer, peer);
    } else {
      receive(buffer, peer);
    }
  }
  return newest();
}

std::unique_lock<std::mutex> ThreadsComm::begin(Operation operation, Stream& stream) {
  std::unique_lock lock(world_.mutex_);
  world_.throw_if_aborted(world_rank(), text(operation));
  forget_finished();
  transfers_ = stream.queue() ? &stream.transfers() : nullptr;
  posted_ = stream.point();
  work_.push_back({operation});
  return lock;
}

void ThreadsComm::send(const Tensor& buffer, int destination) {
  const auto [operation, unread, unreceived] = work_.back();
  group_->channel(operation, rank(), destination).push_back({buffer.data, buffer.bytes(), operation, newest().ticket, posted_});
  work_.back().unread++;
  world_.wake(group_->ranks[destination]);
}

void ThreadsComm::receive(const Tensor& buffer, int source) {
  receives_.push_back({buffer.data, buffer.bytes(), work_.back().operation, newest().ticket, source, posted_});
  work_.back().unreceived++;
}

void ThreadsComm::receive_ready(std::unique_lock<std::mutex>& lock) {
  for (size_t i = 0; i < receives_.size();) {
    const Receive to = receives_[i];
    std::vector<Message>& channel = group_->channel(to.operation, to.source, rank());
    if (channel.empty()) {
      i++;
      continue;
    }
    check(to, channel.front());
    channel.front().taken = true;
    const Message from = channel.front();
    lock.unlock();
    const Event copied = copy(to, from);
    lock.lock();
    received_ = copied;
    channel.erase(channel.begin());
    group_->members[to.source]->message_read(from.ticket, rank(), copied);
    work(to.ticket).unreceived--;
    receives_.erase(receives_.begin() + static_cast<std::ptrdiff_t>(i));
    i = 0;  // while the lock was free, a message may have come for an earlier receive of the same channel
  }
  forget_finished();
}

Event ThreadsComm::copy(const Receive& to, const Message& from) {
  if (!transfers_) {
    if (from.bytes > 0) std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes));
    return {};
  }
  for (const Event& side : {to.posted, from.posted}) side.pending->join(side.ticket, *transfers_->queue());
  transfers_->copy_bytes(to.data, from.data, from.bytes);
  return transfers_->point();
}

void ThreadsComm::join(uint64_t, Queue& queue) {
  const std::lock_guard lock(world_.mutex_);
  // The newest copies, perhaps of later tickets: they are enqueued already, so to wait for them is safe, and queues are in order.
  if (received_.pending) received_.pending->join(received_.ticket, queue);
  for (const Event& copied : read_by_) {
    if (copied.pending) copied.pending->join(copied.ticket, queue);
  }
}

void ThreadsComm::check(const Receive& to, const Message& from) const {
  if (to.operation == from.operation && to.bytes == from.bytes) return;
  const auto side = [](Operation operation, int64_t bytes) {
    return std::string(name_of(operation)) + " of " + std::to_string(bytes) + " bytes";
  };
  throw InternalError("group " + group_->name + ": rank " + std::to_string(group_->ranks[to.source]) + " sends in " +
                      side(from.operation, from.bytes) + " what rank " + std::to_string(world_rank()) + " receives in " +
                      side(to.operation, to.bytes));
}

void ThreadsComm::message_read(uint64_t ticket, int reader, Event copied) {
  read_by_[static_cast<size_t>(reader)] = copied;
  if (--work(ticket).unread == 0) world_.wake(world_rank());
}

void ThreadsComm::forget_finished() {
  const auto first = std::ranges::find_if(work_, [](const Work& w) { return !w.done(); });
  first_ticket_ += static_cast<uint64_t>(first - work_.begin());
  work_.erase(work_.begin(), first);
}

bool ThreadsComm::advance(uint64_t ticket) {
  std::unique_lock lock(world_.mutex_);
  world_.throw_if_aborted(world_rank(), done(ticket) ? "group " + group_->name : text(work(ticket).operation));
  world_.make_progress(lock, world_rank());
  return done(ticket);
}

void ThreadsComm::sleep(uint64_t ticket) {
  std::unique_lock lock(world_.mutex_);
  ThreadsWorld::Rank& self = world_.ranks_[world_rank()];
  if (done(ticket) || self.version != self.seen) return;
  const std::string what = text(work(ticket).operation);
  if (const auto ended = world_.ended_among(missing(ticket)); !ended.empty()) {
    throw CommError(
        {.what = what + " on rank " + std::to_string(world_rank()) + " waits for " + ranks_text(ended) + ", which ended without it"});
  }
  if (sleep_ticket_ != ticket) sleep_ticket_ = ticket, sleep_patience_ = Patience(world_.timeout_seconds_, Patience::Clock::now());
  bool woken = false;
  do {
    woken = self.changed.wait_until(lock, sleep_patience_.next_look(), [&] { return world_.aborted_ || self.version != self.seen; });
    world_.throw_if_aborted(world_rank(), what);
  } while (!sleep_patience_.ended(Patience::Clock::now()) && !woken);
  if (woken) return;
  throw CommError({.what = what + " on rank " + std::to_string(world_rank()) + " waited " + format_seconds(world_.timeout_seconds_) +
                           " for " + ranks_text(missing(ticket))});
}

std::vector<int> ThreadsComm::missing(uint64_t ticket) {
  std::vector<int> ranks;
  for (int peer = 0; peer < size(); peer++) {
    const bool owes = std::ranges::any_of(receives_, [&](const Receive& r) { return r.source == peer && r.ticket == ticket; });
    const auto& shown = group_->channel(work(ticket).operation, rank(), peer);
    const bool unread = std::ranges::any_of(shown, [&](const Message& m) { return m.ticket == ticket; });
    if (owes || unread) ranks.push_back(group_->ranks[peer]);
  }
  return ranks;
}

std::string ThreadsComm::text(Operation operation) const { return std::string(name_of(operation)) + " of group " + group_->name; }

}  // namespace tessera
