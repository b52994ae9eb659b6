#pragma once
#include <string>
#include <vector>

#include "base/half.h"
#include "tests/op_test.h"
#include "tests/reference_elementwise.h"

/// Several steps of an update rule on a device and in plain loops, in any combination of types.
namespace tessera::op_test {

constexpr UpdateRule update_rules[] = {UpdateRule::Sgd, UpdateRule::Momentum, UpdateRule::AdaGrad, UpdateRule::Adam, UpdateRule::AdamW};
constexpr int states_of(UpdateRule rule) { return rule == UpdateRule::Sgd ? 0 : rule <= UpdateRule::AdaGrad ? 1 : 2; }

constexpr UpdateHyper usual_hyper = {.learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f};
constexpr int64_t first_step = 7;  // of the run: what random numbers follow; the applied steps count from 1

struct UpdateTypes {
  DType master = DType::f32, moment = DType::f32, gradient = DType::f32;
};

inline RandomStream rounding_of(const std::string& name) { return RandomStream(1, RandomPurpose::Rounding, name); }

/// Two parameters side by side, one with decay: [0, n / 3) from its element 5, [n / 3, n) from its first one.
inline std::vector<UpdateSegment> two_segments(int64_t n) {
  return {{0, n / 3, 0.1f, rounding_of("a"), 5}, {n / 3, n, 0.0f, rounding_of("b"), 0}};
}

inline std::vector<float> gradient_of_step(int64_t n, int t) { return random_values(n, "gradient" + std::to_string(t)); }

/// Random master weights and empty states; `weight` of type `copy` unless that is an integer type.
inline UpdateShard make_shard(TestDevice& device, UpdateRule rule, int64_t n, UpdateTypes types, DType copy = DType::u8) {
  UpdateShard shard;
  shard.master = device.tensor({n}, random_values(n, "weight"), types.master);
  if (is_compute_type(copy)) shard.weight = device.tensor({n}, copy);
  if (states_of(rule) >= 1) shard.first = device.tensor({n}, types.moment);
  if (states_of(rule) >= 2) shard.second = device.tensor({n}, types.moment);
  return shard;
}

/// Steps with other gradients and another clip scale in each.
inline void run_update(TestDevice& device, UpdateRule rule, UpdateShard& shard, UpdateTypes types,
                       const std::vector<UpdateSegment>& segments, int steps, UpdateHyper hyper = usual_hyper) {
  auto* control = device.placed(StepControl{});
  const int64_t n = shard.master.elements();
  for (int t = 1; t <= steps; t++) {
    device.write(control, {.applied_steps = t, .gradient_factor = 1.0f / static_cast<float>(t)});
    shard.gradient = device.tensor({n}, gradient_of_step(n, t), types.gradient);
    device->update().update(rule, shard, segments, hyper, first_step + t, control, device.stream());
  }
}

/// What a shard holds.
inline reference::UpdateState<float> state_of(TestDevice& device, const UpdateShard& shard) {
  const auto values = [&](const Tensor& tensor) { return tensor.empty() ? std::vector<float>() : device.values(tensor); };
  return {device.values(shard.master), values(shard.first), values(shard.second)};
}

/// The storage of plain code: bf16 by the stream's half words; fp64 stays as it is.
template <class Scalar>
struct Kept {
  UpdateTypes types;
  int64_t step;

  Scalar in(DType dtype, Scalar value, const UpdateSegment& segment, uint64_t half_word) const {
    if (dtype == DType::f32 || sizeof(Scalar) == sizeof(double)) return value;
    const RandomStream stream = segment.rounding.at(static_cast<uint64_t>(step));
    return rounded_stochastically(static_cast<float>(value), stream.half_word(half_word));
  }
  Scalar master(Scalar value, const UpdateSegment& segment, uint64_t half_word) const {
    return in(types.master, value, segment, half_word);
  }
  Scalar moment(Scalar value, const UpdateSegment& segment, uint64_t half_word) const {
    return in(types.moment, value, segment, half_word);
  }
};

/// run_update on make_shard in plain loops.
template <class Scalar>
reference::UpdateState<Scalar> plain_update(UpdateRule rule, int64_t n, UpdateTypes types, const std::vector<UpdateSegment>& segments,
                                            int steps, UpdateHyper hyper = usual_hyper) {
  const auto zeros = [&](bool kept) { return std::vector<Scalar>(static_cast<size_t>(kept ? n : 0)); };
  reference::UpdateState<Scalar> state{converted<Scalar>(rounded_to(types.master, random_values(n, "weight"))), zeros(states_of(rule) >= 1),
                                       zeros(states_of(rule) >= 2)};
  for (int t = 1; t <= steps; t++) {
    reference::update<Scalar>(rule, state, converted<Scalar>(rounded_to(types.gradient, gradient_of_step(n, t))), segments, hyper,
                              1.0f / static_cast<float>(t), t, Kept<Scalar>{types, first_step + t});
  }
  return state;
}

/// Master weights and states within the bound of every op.
inline void expect_state_as_exact_as_plain_code(const reference::UpdateState<float>& ours, const reference::UpdateState<float>& plain,
                                                const reference::UpdateState<double>& exact, UpdateTypes types) {
  expect_as_exact_as_plain_code("master", ours.master, plain.master, exact.master, types.master);
  expect_as_exact_as_plain_code("first", ours.first, plain.first, exact.first, types.moment);
  expect_as_exact_as_plain_code("second", ours.second, plain.second, exact.second, types.moment);
}

}  // namespace tessera::op_test
