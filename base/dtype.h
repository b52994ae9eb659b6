#pragma once
#include <cstdint>

namespace tessera {

/// Element types of tensors. Integers are for tokens, indices and raw bytes.
enum class DType : uint8_t { f32, bf16, f16, f64, i32, u8 };

constexpr int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

/// "fp32", "bf16", ...: the names of configuration files and tables.
constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "fp32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "fp16";
    case DType::f64:
      return "fp64";
    case DType::i32:
      return "int32";
    case DType::u8:
      return "uint8";
  }
  return "?";
}

/// Types that activations and weights may have.
constexpr bool is_compute_type(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }
/// Types that gradients, master weights and optimizer states may have: fp16 has too few exponents for them.
constexpr bool is_state_type(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

}  // namespace tessera
