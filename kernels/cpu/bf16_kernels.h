#pragma once
#include <cstdint>
#include <span>
#include <string_view>

#include "base/half.h"
#include "base/packed_weight.h"

namespace tessera {

/// c = a b or c += a b, with a and b bf16 and c and all sums fp32: what our own bf16 kernels compute. The operands lie as both AVX512-BF16
/// and AMX read them:
///   a [rows, depth]          row-major
///   b [depth, 32 panels]     in panels (base/packed_weight.h)
///   c [rows, 32 panels]      row-major
/// depth is even. A kernel may work on whole blocks: a and c have room for the next multiple of 16 rows (what c holds there is undefined
/// afterwards), a's rows and b's panels for the next multiple of 32 in depth, filled up with zeros.
/// The order in which an element's terms are added is the kernel's own, and the same whatever the sizes.
struct Bf16Product {
  int64_t rows, panels, depth;
  const bf16_t* a;
  int64_t a_stride;
  const bf16_t* b;
  int64_t panel_stride;  // from one panel of b to the next
  float* c;
  int64_t c_stride;
  bool add;
  bool stream = false;  // c, which is overwritten, had better go past the caches; its rows begin at cache lines

  static constexpr int64_t panel_columns = packed_step;
  static constexpr int64_t depth_step = 32;  // what depth is filled up to
  static constexpr int64_t row_step = 16;
};

/// The kernels, and `None`, with which bf16 matrices are converted to fp32.
enum class Bf16Kernel { None, Avx512Bf16, Amx, EmulatedAmx };

std::string_view name_of(Bf16Kernel kernel);
/// InternalError when none has that name.
Bf16Kernel bf16_kernel_named(std::string_view name);

/// The kernels that this machine runs, the one that should be fastest first: Amx, Avx512Bf16, None. That order is a guess (there are
/// machines whose AVX512-BF16 is slower than their fp32): a measurement may choose otherwise. EmulatedAmx is for tests and runs everywhere.
std::span<const Bf16Kernel> bf16_kernel_candidates();

/// A kernel as functions. `prepare` comes before a thread's first product and `release` after its last: between them AMX tiles are in use.
struct Bf16Functions {
  void (*prepare)();
  void (*multiply)(const Bf16Product& product);
  void (*release)();
};

/// Of a kernel other than None; the caller answers for the machine running it.
const Bf16Functions& functions_of(Bf16Kernel kernel);

/// A thread's products by one kernel.
class Bf16Multiplier {
 public:
  explicit Bf16Multiplier(Bf16Kernel kernel) : functions_(functions_of(kernel)) { functions_.prepare(); }
  ~Bf16Multiplier() { functions_.release(); }
  Bf16Multiplier(const Bf16Multiplier&) = delete;

  void operator()(const Bf16Product& product) const { functions_.multiply(product); }

 private:
  const Bf16Functions& functions_;
};

}  // namespace tessera
