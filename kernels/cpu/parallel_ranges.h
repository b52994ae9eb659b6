#pragma once
#include <algorithm>
#include <cstdint>

namespace tessera {

/// body(begin, end) on ranges that make up [0, n), one for each of `threads` threads; cuts lie at multiples of `grain`.
/// Work on fewer elements than a team takes to wake (n times `elements_each`) stays on the calling thread.
template <class Body>
void parallel_ranges(int64_t n, int64_t grain, int64_t elements_each, int threads, const Body& body) {
  constexpr int64_t worth_a_team = 32768;
  if (n <= 0) return;
  if (threads == 1 || n * elements_each < worth_a_team) return body(int64_t{0}, n);
  const int64_t grains = (n + grain - 1) / grain;
  // Always all threads: libgomp ends those that a smaller team leaves idle, and starts them anew for the next.
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; t++) {
    const int64_t begin = grains * t / threads * grain, end = std::min(n, grains * (t + 1) / threads * grain);
    if (begin < end) body(begin, end);
  }
}

/// Elements of a cache line: cuts there leave whole vectors and share no line.
constexpr int64_t floats_of_a_line = 16;

}  // namespace tessera
