#include "engine/signals.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

namespace tessera {

static sigset_t watched_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  struct sigaction hangup;
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);  // under nohup, a closed terminal is to be survived
  return signals;
}

SignalWatch::SignalWatch(std::function<void(std::optional<int64_t>)> announce) : announce_(std::move(announce)) {
  std::signal(SIGPIPE, SIG_IGN);  // messages that nobody reads any more must not end a training run
  const sigset_t signals = watched_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { watch(); });
}

SignalWatch::~SignalWatch() {
  ended_ = true;
  thread_.join();
  const sigset_t signals = watched_signals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

std::optional<int64_t> SignalWatch::last_step() const {
  return started_ ? std::optional(std::min(*started_ + 2, steps_)) : std::nullopt;  // it votes, its successor runs, the vote is read
}

void SignalWatch::begin(int64_t finished, int64_t steps) {
  const std::lock_guard lock(mutex_);
  started_ = finished, steps_ = steps;
  if (requested_) announce_(last_step());
}

bool SignalWatch::vote(int64_t step) {
  const std::lock_guard lock(mutex_);
  started_ = step + 1;
  return requested_;
}

void SignalWatch::watch() {
  const sigset_t signals = watched_signals();
  while (!ended_) {
    const timespec tenth{0, 100'000'000};
    const int signal = sigtimedwait(&signals, nullptr, &tenth);
    if (signal < 0) continue;
    if (requested_ && signal == SIGHUP) continue;  // a terminal that closes may send several
    if (requested_) _exit(128 + signal);           // the second one: nothing is saved, nothing that was saved is touched
    const std::lock_guard lock(mutex_);
    requested_ = true;
    announce_(last_step());
  }
}

}  // namespace tessera
