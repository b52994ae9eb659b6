// The update rules: one pass over master weights, states and gradient, with the bits of kernels/cpu/update_rules.cpp (fused multiply-adds
// by name, contraction off). Bound by memory: AdamW in fp32 with bf16 weights moves 30 bytes an element. A thread asks for eight elements
// of every tensor, up to 128 bytes, before it uses the first. What a tensor holds is asked at run time, so that a rule is compiled once
// and not once for each combination of types.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gradient.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/step_end.h"

namespace tessera::cuda {
namespace {

constexpr int group = 8, threads = 128, tile = group * threads;
/// Twice what its registers hold at once, so that the last ones to finish leave little idle.
constexpr int blocks_of_a_multiprocessor = 8;

/// One of a shard's tensors, [n]; null where the rule or the shard has none.
struct Flat {
  void* data;
  DType dtype;

  __device__ __forceinline__ bool in_bf16() const { return data != nullptr && dtype == DType::bf16; }
};
Flat flat(const Tensor& tensor) { return {tensor.data, tensor.dtype}; }

struct FlatShard {
  Flat master, weight, gradient, first, second;
};

/// A segment and its tiles: groups of 8 elements at multiples of 8 of the shard, a tile at multiples of `tile`.
struct FlatSegment {
  int64_t begin, end;
  int64_t first;          // element of the parameter that stands at `begin`
  RandomStream rounding;  // at the step that runs
  int64_t last_tile;      // tiles of this launch up to this segment's end
  float decay;            // as UpdateFactors has it

  int64_t tiles() const { return begin == end ? 0 : (end - 1) / tile - begin / tile + 1; }
};

/// By value to a kernel: with all other parameters less than the 4 KiB that every driver takes.
constexpr int segments_of_a_launch = 60;
struct FlatSegments {
  FlatSegment of[segments_of_a_launch];
  int count;
};
static_assert(sizeof(FlatSegments) + sizeof(FlatShard) + sizeof(UpdateHyper) + 32 <= 4096);

/// Eight elements as they are stored: 32 bytes of fp32, or 16 of bf16.
struct Stored {
  Pack<uint32_t> packs[2] = {};
};

/// The elements of a group that a segment owns.
struct Lanes {
  int from, to;
  bool whole;  // all eight, and every tensor at a multiple of 16 bytes
  __device__ __forceinline__ bool has(int i) const { return from <= i && i < to; }
};

__device__ __forceinline__ void load(Stored& stored, const Flat& tensor, int64_t at, const Lanes& lanes) {
  if (tensor.data == nullptr) return;
  if (tensor.dtype == DType::f32) {
    const uint32_t* from = static_cast<const uint32_t*>(tensor.data) + at;
    if (lanes.whole) {
      stored.packs[0] = load_pack(from);
      stored.packs[1] = load_pack(from + 4);
    } else {
#pragma unroll
      for (int i = 0; i < group; i++) stored.packs[i / 4].elements[i % 4] = lanes.has(i) ? from[i] : 0;
    }
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(tensor.data) + at;
    if (lanes.whole) {
      stored.packs[0] = load_pack(reinterpret_cast<const uint32_t*>(from));
    } else {
#pragma unroll
      for (int i = 0; i < group; i += 2) {
        const uint32_t low = lanes.has(i) ? from[i] : 0, high = lanes.has(i + 1) ? from[i + 1] : 0;
        stored.packs[0].elements[i / 2] = low | high << 16;
      }
    }
  }
}

__device__ __forceinline__ void to_floats(float (&values)[group], const Stored& stored, const Flat& tensor) {
#pragma unroll
  for (int i = 0; i < group; i++) {
    const uint32_t word =
        tensor.dtype == DType::f32 ? stored.packs[i / 4].elements[i % 4] : stored.packs[0].elements[i / 2] >> (i % 2 * 16) << 16;
    values[i] = std::bit_cast<float>(word);
  }
}

template <class T>
__device__ __forceinline__ void store_as(T* to, const float (&values)[group], const Lanes& lanes) {
  if (lanes.whole) {
    store_floats(to, values);
    return;
  }
#pragma unroll
  for (int i = 0; i < group; i++) {
    if (lanes.has(i)) to[i] = from_float<T>(values[i]);
  }
}

/// Rounded to nearest. What is a bf16 number already stays.
__device__ __forceinline__ void store(const Flat& tensor, int64_t at, const float (&values)[group], const Lanes& lanes) {
  if (tensor.data == nullptr) return;
  if (tensor.dtype == DType::f32) store_as(static_cast<float*>(tensor.data) + at, values, lanes);
  if (tensor.dtype == DType::bf16) store_as(static_cast<__nv_bfloat16*>(tensor.data) + at, values, lanes);
  if (tensor.dtype == DType::f16) store_as(static_cast<__half*>(tensor.data) + at, values, lanes);
}

/// Half words 4 e and 4 e + 1 of an element e in one word, 4 e + 2 and 4 e + 3 in the other.
struct ElementWords {
  uint32_t of_master_and_first, of_second;
};

/// Those of elements element, element + 1, ...: a counter serves two. Elements before 0 are no element's: their words are not used.
__device__ __forceinline__ void draw(ElementWords (&words)[group], const RandomStream& rounding, int64_t element) {
  const int64_t counter = element >> 1;
  const bool odd = element & 1;
#pragma unroll
  for (int i = 0; i < group; i += 2) {
    const auto drawn = rounding.words(static_cast<uint64_t>(counter + i / 2));
    if (odd) {
      if (i > 0) words[i - 1] = {drawn[0], drawn[1]};
      words[i] = {drawn[2], drawn[3]};
    } else {
      words[i] = {drawn[0], drawn[1]};
      words[i + 1] = {drawn[2], drawn[3]};
    }
  }
  if (odd) {
    const auto drawn = rounding.words(static_cast<uint64_t>(counter + group / 2));
    words[group - 1] = {drawn[0], drawn[1]};
  }
}

__device__ __forceinline__ float rounded(float value, uint32_t half_word) {
  return to_float(rounded_to_bf16(value, static_cast<uint16_t>(half_word)));
}

/// One element in fp32: the rules of UpdateOps::update.
template <UpdateRule rule>
__device__ __forceinline__ void apply(const UpdateFactors& f, float decay, float& w, float gradient, float& m, float& v) {
  float g = f.gradient_factor * gradient;
  if constexpr (rule != UpdateRule::AdamW) g = fmaf(decay, w, g);
  if constexpr (rule == UpdateRule::Sgd) {
    w = fmaf(-f.learning_rate, g, w);
  } else if constexpr (rule == UpdateRule::Momentum) {
    m = fmaf(f.beta1, m, g);
    w = fmaf(-f.learning_rate, m, w);
  } else if constexpr (rule == UpdateRule::AdaGrad) {
    m = fmaf(g, g, m);
    w = w - f.learning_rate * g / (sqrtf(m) + f.epsilon);
  } else {
    m = fmaf(f.beta1, m, f.one_minus_beta1 * g);
    v = fmaf(f.beta2, v, f.one_minus_beta2 * (g * g));
    float step = f.m_scale * m / fmaf(sqrtf(v), f.v_scale, f.epsilon);
    if constexpr (rule == UpdateRule::AdamW) step = fmaf(decay, w, step);
    w = w - step;
  }
}

template <UpdateRule rule>
__device__ __forceinline__ void update_group(const FlatShard& shard, const FlatSegment& segment, const UpdateFactors& factors, int64_t at,
                                             const Lanes& lanes) {
  Stored stored_w, stored_g, stored_m, stored_v;
  load(stored_w, shard.master, at, lanes);
  load(stored_g, shard.gradient, at, lanes);
  load(stored_m, shard.first, at, lanes);
  load(stored_v, shard.second, at, lanes);
  float w[group], g[group], m[group], v[group];
  to_floats(w, stored_w, shard.master);
  to_floats(g, stored_g, shard.gradient);
  to_floats(m, stored_m, shard.first);
  to_floats(v, stored_v, shard.second);
#pragma unroll
  for (int i = 0; i < group; i++) apply<rule>(factors, segment.decay, w[i], g[i], m[i], v[i]);
  if (shard.master.in_bf16() || shard.first.in_bf16() || shard.second.in_bf16()) {
    ElementWords random[group];
    draw(random, segment.rounding, segment.first + at - segment.begin);
#pragma unroll
    for (int i = 0; i < group; i++) {
      if (shard.master.in_bf16()) w[i] = rounded(w[i], random[i].of_master_and_first & 0xFFFF);
      if (shard.first.in_bf16()) m[i] = rounded(m[i], random[i].of_master_and_first >> 16);
      if (shard.second.in_bf16()) v[i] = rounded(v[i], random[i].of_second & 0xFFFF);
    }
  }
  store(shard.master, at, w, lanes);
  store(shard.first, at, m, lanes);
  store(shard.second, at, v, lanes);
  store(shard.weight, at, w, lanes);
}

/// The first segment whose tiles reach beyond `t`.
__device__ __forceinline__ int segment_of_tile(const FlatSegments& segments, int64_t t) {
  int low = 0, high = segments.count - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (segments.of[middle].last_tile > t) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// Every tensor of the shard [n]. A block takes tiles blockIdx.x, blockIdx.x + gridDim.x, ...
template <UpdateRule rule>
__global__ void __launch_bounds__(threads, 4) update_kernel(FlatShard shard, const __grid_constant__ FlatSegments segments,
                                                            UpdateHyper hyper, const StepControl* control, bool packed) {
  if (control->skip) return;  // all threads of all blocks read the same
  UpdateFactors& shared_factors = shared<UpdateFactors>();
  if (threadIdx.x == 0) shared_factors = factors_of(hyper, *control);
  __syncthreads();
  const UpdateFactors factors = shared_factors;
  const int64_t tiles = segments.of[segments.count - 1].last_tile;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const FlatSegment& segment = segments.of[segment_of_tile(segments, t)];
    const int64_t tiles_behind = segment.last_tile - t, last = (segment.end - 1) / tile;
    const int64_t at = (last + 1 - tiles_behind) * tile + static_cast<int64_t>(threadIdx.x) * group;
    if (at >= segment.end || at + group <= segment.begin) continue;
    Lanes lanes{static_cast<int>(max(segment.begin - at, int64_t{0})), static_cast<int>(min(segment.end - at, int64_t{group})), false};
    lanes.whole = packed && lanes.from == 0 && lanes.to == group;
    update_group<rule>(shard, segment, factors, at, lanes);
  }
}

using UpdateKernel = void (*)(FlatShard, const FlatSegments, UpdateHyper, const StepControl*, bool);

UpdateKernel kernel_of(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::Sgd:
      return update_kernel<UpdateRule::Sgd>;
    case UpdateRule::Momentum:
      return update_kernel<UpdateRule::Momentum>;
    case UpdateRule::AdaGrad:
      return update_kernel<UpdateRule::AdaGrad>;
    case UpdateRule::Adam:
      return update_kernel<UpdateRule::Adam>;
    default:
      return update_kernel<UpdateRule::AdamW>;
  }
}

}  // namespace

void enqueue_update(UpdateRule rule, const UpdateShard& shard, std::span<const UpdateSegment> segments, UpdateHyper hyper, int64_t step,
                    const StepControl* control, int multiprocessors, cudaStream_t stream) {
  const FlatShard tensors{flat(shard.master), flat(shard.weight), flat(shard.gradient), flat(shard.first), flat(shard.second)};
  bool packed = true;
  for (const Flat& tensor : {tensors.master, tensors.weight, tensors.gradient, tensors.first, tensors.second}) {
    packed = packed && is_packed(tensor.data, 0);
  }
  while (!segments.empty()) {
    const auto now = segments.first(std::min<size_t>(segments.size(), segments_of_a_launch));
    segments = segments.subspan(now.size());
    FlatSegments flat_segments{};
    int64_t tiles = 0;
    for (const UpdateSegment& segment : now) {
      FlatSegment& to = flat_segments.of[flat_segments.count++];
      to = {segment.begin,
            segment.end,
            segment.first,
            segment.rounding.at(static_cast<uint64_t>(step)),
            0,
            decay_of(rule, hyper, segment.decay)};
      to.last_tile = tiles += to.tiles();
    }
    if (tiles == 0) continue;
    const int64_t blocks = std::min<int64_t>(tiles, int64_t{multiprocessors} * blocks_of_a_multiprocessor);
    launch(kernel_of(rule), {static_cast<unsigned>(blocks), threads}, stream, tensors, flat_segments, hyper, control, packed);
  }
}

}  // namespace tessera::cuda
