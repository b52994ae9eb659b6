#pragma once
// Half words of a RandomStream, eight at a time: base/random.h itself runs on the device.
#include <cuda_runtime.h>

#include <cstdint>

#include "base/random.h"

namespace tessera::cuda {

/// Half words first, first + 1, ... of a stream: half word i stands in word i / 2, the even one below.
struct EightHalfWords {
  uint32_t words[4];
  /// i should be known to the compiler: else the words go through memory.
  __device__ __forceinline__ uint16_t operator[](int i) const { return static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)); }
};

/// One call of Philox where `first` is a multiple of 8, two elsewhere: callers begin at multiples where they can.
__device__ __forceinline__ EightHalfWords eight_half_words(const RandomStream& stream, uint64_t first) {
  const auto drawn = stream.words(first / 8);
  const unsigned skipped = first % 8;
  if (skipped == 0) return {{drawn[0], drawn[1], drawn[2], drawn[3]}};
  const auto next = stream.words(first / 8 + 1);
  uint32_t all[8] = {drawn[0], drawn[1], drawn[2], drawn[3], next[0], next[1], next[2], next[3]};
  // Steps of 4, 2 and 1 half words with indices that the compiler knows, so that everything stays in registers.
  if (skipped & 4) {
#pragma unroll
    for (int i = 0; i < 6; i++) all[i] = all[i + 2];
  }
  if (skipped & 2) {
#pragma unroll
    for (int i = 0; i < 5; i++) all[i] = all[i + 1];
  }
  if (skipped & 1) {
#pragma unroll
    for (int i = 0; i < 4; i++) all[i] = all[i] >> 16 | all[i + 1] << 16;
  }
  return {{all[0], all[1], all[2], all[3]}};
}

}  // namespace tessera::cuda
