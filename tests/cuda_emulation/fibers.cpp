#include "tests/cuda_emulation/fibers.h"

#include <sys/mman.h>

#include <vector>

#include "tests/cuda_emulation/emulator.h"
#include "tests/cuda_emulation/sanitizers.h"

namespace cuda_emulation {
namespace {

using boost::context::detail::transfer_t;

constexpr std::size_t usable_bytes = 256 * 1024, guard_bytes = 4096;
Fiber the_host;
Fiber* running = &the_host;

void arrived(Fiber& self, transfer_t from) {
  Fiber& previous = *static_cast<Fiber*>(from.data);
  previous.context = from.fctx;
  const void* stack = nullptr;
  std::size_t bytes = 0;
  finish_switch_of_stacks(self.fake_stack, &stack, &bytes);
  if (&previous == &the_host) {  // several host threads take turns
    the_host.stack = stack;
    the_host.stack_bytes = bytes;
  }
}

void begin(transfer_t from) {
  arrived(*running, from);
  running->entry();
  fault("a fiber came to its end");
}

char* map_stack() {
  void* pages = mmap(nullptr, usable_bytes + guard_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) fault("no memory for the stack of a CUDA thread");
  mprotect(pages, guard_bytes, PROT_NONE);  // a kernel that needs more stack than there is shall not go on
  return static_cast<char*>(pages) + guard_bytes;
}

// Reserved, so that it never allocates inside a fiber; leaked, so that fibers outlive every destructor.
std::vector<Fiber*>& all_fibers() {
  static auto* fibers = [] {
    auto* reserved = new std::vector<Fiber*>;
    reserved->reserve(1 << 16);
    return reserved;
  }();
  return *fibers;
}

}  // namespace

Fiber& running_fiber() { return *running; }

Fiber* create_fiber(void (*entry)()) {
  auto* fiber = new Fiber;
  fiber->entry = entry;
  char* stack = map_stack();
  const std::size_t offset = all_fibers().size() % 61 * 64;  // equal stacks would all fall into the same cache sets
  fiber->stack = stack;
  fiber->stack_bytes = usable_bytes;
  fiber->context = boost::context::detail::make_fcontext(stack + usable_bytes - offset, usable_bytes - offset, begin);
  fiber->watched = create_watched_thread();
  all_fibers().push_back(fiber);
  return fiber;
}

void switch_to(Fiber& to) {
  Fiber& from = *running;
  if (&from == &the_host) from.watched = current_watched_thread();
  running = &to;
  start_switch_of_stacks(&from.fake_stack, to.stack, to.stack_bytes);
  switch_watched_thread(to.watched);
  arrived(from, boost::context::detail::jump_fcontext(to.context, &from));
}

}  // namespace cuda_emulation
