// The only source that speaks to oneDNN. Versions 2 and 3 differ in how a primitive is described, and in nothing else that is used here.
#include "kernels/cpu/library_matmul.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "base/error.h"
#include "kernels/matmul_ops.h"

namespace tessera {

std::string matmul_library() {
  const dnnl_version_t& version = *dnnl_version();
  return fmt::format("oneDNN {}.{}.{}", version.major, version.minor, version.patch);
}

bool processor_multiplies(DType dtype) { return LibraryMatmul().multiplies_fast(dtype); }

void multiply_fp32(const MatmulProduct& p) {
  const auto letter = [](bool transposed) { return transposed ? 'T' : 'N'; };
  const dnnl_status_t status =
      dnnl_sgemm(letter(p.transpose_a), letter(p.transpose_b), p.m(), p.n(), p.k(), 1.0f, p.a.as<float>(), p.a.row_stride(),
                 p.b.as<float>(), p.b.row_stride(), p.accumulate ? 1.0f : 0.0f, p.c.as<float>(), p.c.row_stride());
  invariant(status == dnnl_success, "oneDNN refused a matmul");
}

namespace {

using Memory = dnnl::memory;

/// A product as oneDNN runs it: its operands by oneDNN's numbers, and which of these are a, b and c.
struct Primitive {
  dnnl::primitive primitive;
  std::unordered_map<int, Memory> operands;
  int a, b, c;
  bool takes_scratch;  // of the caller; false: so much that oneDNN allocates it itself
};

/// Attributes of a primitive that notes down intermediate results in memory of the caller's.
dnnl::primitive_attr with_our_scratch() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

/// All that a primitive depends on, beside the scratch memory, which never changes: types, sizes, strides, transposition, bias.
using Key = std::array<int64_t, 10>;

Key key_of(const MatmulProduct& p) {
  const auto number = [](DType dtype) { return static_cast<int64_t>(dtype); };
  const int64_t flags = p.transpose_a + 2 * p.transpose_b + 4 * !p.bias.empty() + 8 * !p.packed_b.empty();
  return {
      p.m(), p.n(), p.k(), p.a.row_stride(), p.b.row_stride(), p.c.row_stride(), number(p.a.dtype), number(p.b.dtype), number(p.c.dtype),
      flags};
}

Memory::data_type type_of(DType dtype) {
  invariant(is_compute_type(dtype), "oneDNN multiplies fp32, bf16 and fp16 only");
  return dtype == DType::bf16 ? Memory::data_type::bf16 : dtype == DType::f16 ? Memory::data_type::f16 : Memory::data_type::f32;
}

/// A matrix, or the transpose of what is stored.
Memory::desc description_of(const Tensor& matrix, bool transposed = false) {
  const int64_t rows = matrix.rows(), columns = matrix.columns(), stride = matrix.row_stride();
  if (transposed) return Memory::desc({columns, rows}, type_of(matrix.dtype), Memory::dims{1, stride});
  return Memory::desc({rows, columns}, type_of(matrix.dtype), Memory::dims{stride, 1});
}

/// The right factor; base/packed_weight.h says what the tag means.
Memory::desc description_of_b(const MatmulProduct& p) {
  if (p.packed_b.empty()) return description_of(p.b, p.transpose_b);
  return Memory::desc({p.k(), p.n()}, type_of(p.packed_b.dtype), Memory::format_tag::BA16a32b2a);
}

dnnl::matmul::primitive_desc describe_matmul(const MatmulProduct& p, const dnnl::engine& engine, const dnnl::primitive_attr& attributes) {
  const Memory::desc a = description_of(p.a, p.transpose_a), b = description_of_b(p), c = description_of(p.c);
  const bool biased = !p.bias.empty();
  const Memory::desc bias = biased ? Memory::desc({1, p.n()}, type_of(p.bias.dtype), Memory::format_tag::ab) : Memory::desc();
#if DNNL_VERSION_MAJOR >= 3
  using Chosen = dnnl::matmul::primitive_desc;
  return biased ? Chosen(engine, a, b, bias, c, attributes) : Chosen(engine, a, b, c, attributes);
#else
  using Described = dnnl::matmul::desc;
  return {biased ? Described(a, b, bias, c) : Described(a, b, c), attributes, engine};
#endif
}

Primitive create_matmul(const MatmulProduct& p, const dnnl::engine& engine, size_t scratch_bytes) {
  dnnl::matmul::primitive_desc chosen = describe_matmul(p, engine, with_our_scratch());
  const bool takes_scratch = chosen.scratchpad_desc().get_size() <= scratch_bytes;
  if (!takes_scratch) chosen = describe_matmul(p, engine, {});
  Primitive result{dnnl::matmul(chosen), {}, DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, takes_scratch};
  result.operands = {{result.a, Memory(chosen.src_desc(), engine, nullptr)},
                     {result.b, Memory(chosen.weights_desc(), engine, nullptr)},
                     {result.c, Memory(chosen.dst_desc(), engine, nullptr)}};
  if (takes_scratch) result.operands.emplace(DNNL_ARG_SCRATCHPAD, Memory(chosen.scratchpad_desc(), engine, nullptr));
  if (!p.bias.empty()) result.operands.emplace(DNNL_ARG_BIAS, Memory(chosen.bias_desc(), engine, nullptr));
  return result;
}

/// c = a^T b as the weight gradient of a layer with inputs b: 5 to 15% faster than as a matmul, where all three are whole matrices.
Primitive create_weight_gradient(const MatmulProduct& p, const dnnl::engine& engine, size_t scratch_bytes) {
  using Forward = dnnl::inner_product_forward;
  using Gradient = dnnl::inner_product_backward_weights;
  const Memory::desc dy = description_of(p.a), x = description_of(p.b), dweight = description_of(p.c);
  // The forward that a gradient must be told of; the layout of its weight is of no account.
  const Memory::desc weight({p.m(), p.n()}, type_of(p.a.dtype), Memory::format_tag::any);
#if DNNL_VERSION_MAJOR >= 3
  const Forward::primitive_desc forward(engine, dnnl::prop_kind::forward_training, x, weight, dy);
  const auto describe = [&](const dnnl::primitive_attr& attributes) {
    return Gradient::primitive_desc(engine, x, dweight, dy, forward, attributes);
  };
#else
  const Forward::primitive_desc forward(Forward::desc(dnnl::prop_kind::forward_training, x, weight, dy), engine);
  const auto describe = [&](const dnnl::primitive_attr& attributes) {
    return Gradient::primitive_desc(Gradient::desc(x, dweight, dy), attributes, engine, forward);
  };
#endif
  Gradient::primitive_desc chosen = describe(with_our_scratch());
  const bool takes_scratch = chosen.scratchpad_desc().get_size() <= scratch_bytes;
  if (!takes_scratch) chosen = describe({});
  Primitive result{Gradient(chosen), {}, DNNL_ARG_DIFF_DST, DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, takes_scratch};
  result.operands = {
      {result.a, Memory(dy, engine, nullptr)}, {result.b, Memory(x, engine, nullptr)}, {result.c, Memory(dweight, engine, nullptr)}};
  if (takes_scratch) result.operands.emplace(DNNL_ARG_SCRATCHPAD, Memory(chosen.scratchpad_desc(), engine, nullptr));
  return result;
}

bool is_weight_gradient(const MatmulProduct& p) {
  const bool whole = p.a.contiguous() && p.b.contiguous() && p.c.contiguous();
  return whole && p.transpose_a && !p.transpose_b && p.bias.empty() && p.c.dtype == DType::f32;
}

/// Whether the processor, as far as oneDNN may use it, has all of `isa`: each bit stands for a group of instructions.
bool machine_has(dnnl::cpu_isa isa) {
  const auto bits = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & bits) == bits;
}

}  // namespace

class LibraryMatmul::Primitives {
 public:
  void execute(const MatmulProduct& p, std::span<std::byte> scratch) {
    Primitive& found = primitive_of(p, scratch.size());
    found.operands.at(found.a).set_data_handle(p.a.data);
    found.operands.at(found.b).set_data_handle(p.packed_b.empty() ? p.b.data : p.packed_b.data);
    found.operands.at(found.c).set_data_handle(p.c.data);
    if (found.takes_scratch) found.operands.at(DNNL_ARG_SCRATCHPAD).set_data_handle(scratch.data());
    if (!p.bias.empty()) found.operands.at(DNNL_ARG_BIAS).set_data_handle(p.bias.data);
    found.primitive.execute(stream_, found.operands);
    stream_.wait();
  }

 private:
  Primitive& primitive_of(const MatmulProduct& p, size_t scratch_bytes) {
    const Key key = key_of(p);
    const auto known = known_.find(key);
    if (known != known_.end()) return known->second;
    // oneDNN keeps what it generated in caches of the process, which ranks that are threads share: one of them creates at a time.
    static std::mutex creating;
    const std::lock_guard lock(creating);
    const auto create = is_weight_gradient(p) ? create_weight_gradient : create_matmul;
    return known_.emplace(key, create(p, engine_, scratch_bytes)).first->second;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Key, Primitive> known_;
};

LibraryMatmul::LibraryMatmul() : primitives_(std::make_unique<Primitives>()) {}
LibraryMatmul::~LibraryMatmul() = default;

bool LibraryMatmul::multiplies(DType dtype) const {
  if (dtype == DType::bf16) return machine_has(dnnl::cpu_isa::avx512_core);
  return dtype == DType::f32 || multiplies_fast(dtype);
}

bool LibraryMatmul::multiplies_fast(DType dtype) const {
  // With less, oneDNN converts inside its loops, at a third of the speed of sgemm.
  if (dtype == DType::bf16) return machine_has(dnnl::cpu_isa::avx512_core_bf16);
#if DNNL_VERSION_MAJOR > 3 || (DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 7)
  if (dtype == DType::f16) return machine_has(dnnl::cpu_isa::avx512_core_amx_fp16);
#endif
  return false;
}

void LibraryMatmul::multiply(const MatmulProduct& p, std::span<std::byte> scratch) {
  invariant(!p.accumulate, "oneDNN's primitives overwrite");
  try {
    primitives_->execute(p, scratch);
  } catch (const dnnl::error& error) {
    throw InternalError(fmt::format("oneDNN refused a matmul of {} numbers: {}", name_of(p.a.dtype), error.what()));
  }
}

}  // namespace tessera
