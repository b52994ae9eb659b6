#pragma once
#include <cstdint>

namespace tessera {

/// What one thread does of the ops of a step's end, on the best instruction set of the machine. Any cut gives the same bits.

/// AdamW's factors of one segment and step; fp32, computed in fp64.
struct AdamWFactors {
  float clip_scale;
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float m_scale;  // learning rate / (1 - beta1^t)
  float v_scale;  // 1 / sqrt(1 - beta2^t), after the root
  float epsilon;
  float decay;  // learning rate times weight decay
};
void adamw_range(float* weight, float* m, float* v, const float* gradient, int64_t n, const AdamWFactors& factors);

/// Elements whose squares are summed in fp64 before the sum becomes a fixed-point integer.
constexpr int64_t norm_block = 256;
/// The sum of squares of one block: lane j of 16 adds elements j, j + 16, ... and a fixed tree adds the lanes. The squares of fp32 numbers
/// are exact in fp64, so all instruction sets agree.
double block_squares(const float* block);

}  // namespace tessera
