#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/half.h"
#include "base/random.h"
#include "kernels/cpu/storage.h"
#include "kernels/device.h"
#include "kernels/gradient_write.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

/// What the tests of ops share: a device with memory, random values, and the bound that every op must keep.
namespace tessera::op_test {

/// Normal numbers times `scale`; another name, other numbers.
inline std::vector<float> random_values(int64_t count, const std::string& name, float scale = 1) {
  const RandomStream stream(20251121, RandomPurpose::Init, name);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); i++) values[i] = scale * stream.normal(i);
  return values;
}

template <class To, class From>
std::vector<To> converted(const std::vector<From>& values) {
  return std::vector<To>(values.begin(), values.end());
}

/// The types that activations and weights may have.
inline const std::vector<DType> compute_types = {DType::f32, DType::bf16, DType::f16};

/// A gradient's type, and how an op reaches it.
struct GradientCase {
  DType dtype = DType::f32;
  GradientWrite write = GradientWrite::Add;
};
constexpr GradientWrite gradient_writes[] = {GradientWrite::Overwrite, GradientWrite::Add};
constexpr GradientCase gradient_cases[] = {{DType::f32, GradientWrite::Overwrite},
                                           {DType::f32, GradientWrite::Add},
                                           {DType::bf16, GradientWrite::Overwrite},
                                           {DType::bf16, GradientWrite::Add}};
inline std::string text_of(const GradientCase& c) {
  return std::string(name_of(c.dtype)) + (c.write == GradientWrite::Add ? ", added" : ", overwritten");
}

/// What stands in a gradient before an op that adds to `start`: NaN where it shall overwrite instead, so that nothing of it may be left.
inline std::vector<float> old_gradient(const GradientCase& c, const std::vector<float>& start) {
  if (c.write == GradientWrite::Add) return start;
  return std::vector<float>(start.size(), std::numeric_limits<float>::quiet_NaN());
}
/// What of `start` is part of the sums.
inline std::vector<float> added_to(const GradientCase& c, const std::vector<float>& start) {
  return c.write == GradientWrite::Add ? start : std::vector<float>(start.size());
}

/// What storage in `dtype` makes of the values: each rounded to nearest.
inline std::vector<float> rounded_to(DType dtype, std::vector<float> values) {
  with_storage(dtype, [&]<class T>(T*) {
    for (float& value : values) value = static_cast<float>(T(value));
  });
  return values;
}

/// Where op tests run. TESSERA_TEST_DEVICE: cpu (or nothing), cuda, cuda-emulated (tests/cuda_emulation/).
inline std::string_view device_under_test() {
  const char* name = std::getenv("TESSERA_TEST_DEVICE");
  return name ? name : "cpu";
}
inline DeviceKind kind_under_test() { return device_under_test().starts_with("cuda") ? DeviceKind::Cuda : DeviceKind::Cpu; }
inline bool emulated() { return device_under_test() == "cuda-emulated"; }
/// A size; where each CUDA thread is a fiber, a smaller one that takes the same paths of the kernels.
template <class Size>
Size emulated_or(const Size& emulated_size, const Size& size) {
  return emulated() ? emulated_size : size;
}

/// A device with an arena; tensors are copied in and out.
class TestDevice {
 public:
  explicit TestDevice(std::unique_ptr<Device> device, int64_t capacity_bytes = int64_t{1} << 30) : device_(std::move(device)) {
    ArenaSize size;
    size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = capacity_bytes;
    device_->reserve(size);
  }
  static TestDevice cpu(int threads = 2) { return TestDevice(Device::cpu(threads)); }
  /// Of the kind under test.
  static TestDevice under_test(int threads = 2) {
    if (kind_under_test() == DeviceKind::Cpu) return cpu(threads);
    TestDevice device(Device::cuda(0, threads), int64_t{1} << (emulated() ? 26 : 28));  // all of it is touched
    if (emulated()) device.guard_tensors();
    return device;
  }
  static TestDevice null() { return TestDevice(Device::null({.kind = DeviceKind::Cpu, .threads = 2})); }

  Device* operator->() { return device_.get(); }
  Stream& stream() { return device_->compute(); }

  /// Zeros.
  Tensor tensor(Shape shape, DType dtype = DType::f32) {
    Arena& arena = device_->arena();
    if (guarded_) arena.permanent(DType::u8, {arena_alignment_bytes}, MemoryCategory::Scratch);
    const Tensor taken = arena.permanent(dtype, shape, MemoryCategory::Scratch);
    if (guarded_) allow(taken.data, taken.bytes());
    return taken;
  }
  /// The values rounded to `dtype`.
  Tensor tensor(Shape shape, const std::vector<float>& values, DType dtype = DType::f32) {
    return with_storage(dtype, [&]<class T>(T*) { return filled(tensor(shape, dtype), converted<T>(values)); });
  }
  Tensor tensor(Shape shape, const std::vector<int32_t>& values) { return filled(tensor(shape, DType::i32), values); }
  /// The values rounded to the tensor's type.
  void fill(const Tensor& to, const std::vector<float>& values) {
    with_storage(to.dtype, [&]<class T>(T*) { filled(to, converted<T>(values)); });
  }
  /// Plain structs in device memory.
  template <class T>
  T* placed(const T& value) {
    T* place = static_cast<T*>(tensor({static_cast<int64_t>(sizeof(T))}, DType::u8).data);
    write(place, value);
    return place;
  }
  template <class T>
  T* placed(const std::vector<T>& values) {
    const Tensor memory = tensor({static_cast<int64_t>(values.size() * sizeof(T))}, DType::u8);
    device_->write(memory, values.data(), memory.bytes());
    return static_cast<T*>(memory.data);
  }
  template <class T>
  void write(T* place, const std::type_identity_t<T>& value) {
    device_->write(Tensor(place, DType::u8, {static_cast<int64_t>(sizeof(T))}), &value, sizeof(T));
  }
  /// After everything that was enqueued before.
  template <class T>
  T read(T* place) {
    T value{};
    device_->read(&value, Tensor(place, DType::u8, {static_cast<int64_t>(sizeof(T))}), sizeof(T));
    return value;
  }
  /// Columns [begin, end) of a wider matrix of zeros, filled with `values`: the form in which q, k and v reach an op.
  Tensor columns(Tensor matrix, int64_t begin, int64_t end, const std::vector<float>& values) {
    const Tensor view = matrix.column_range(begin, end);
    with_storage(matrix.dtype, [&]<class T>(T*) {
      const std::vector<T> stored = converted<T>(values);
      for (int64_t row = 0; row < view.rows(); row++) {
        const Tensor line = view.row_range(row, row + 1);
        device_->write(line, stored.data() + row * (end - begin), line.bytes());
      }
    });
    return view;
  }
  /// Of a contiguous tensor or a range of a matrix' columns.
  std::vector<float> values(Tensor tensor) {
    std::vector<float> result;
    result.reserve(static_cast<size_t>(tensor.elements()));
    with_storage(tensor.dtype, [&]<class T>(T*) {
      const int64_t lines = tensor.contiguous() ? 1 : tensor.rows();
      std::vector<T> stored(static_cast<size_t>(tensor.elements() / lines));
      for (int64_t i = 0; i < lines; i++) {
        const Tensor line = tensor.contiguous() ? tensor : tensor.row_range(i, i + 1);
        device_->read(stored.data(), line, line.bytes());
        result.insert(result.end(), stored.begin(), stored.end());
      }
    });
    return result;
  }

 private:
  template <class Value>
  Tensor filled(Tensor tensor, const std::vector<Value>& values) {
    device_->write(tensor, values.data(), static_cast<int64_t>(values.size() * sizeof(Value)));
    return tensor;
  }

  // An arena is one piece of memory to AddressSanitizer. From here on it sees who leaves a tensor, to the byte.
  void guard_tensors() {
#ifdef __SANITIZE_ADDRESS__
    const std::span<std::byte> untaken = device_->arena().untaken();
    __asan_poison_memory_region(untaken.data(), untaken.size());
    guarded_ = true;
#endif
  }
  static void allow([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(memory, static_cast<size_t>(bytes));
#endif
  }

  std::unique_ptr<Device> device_;
  bool guarded_ = false;  // each tensor lies between bytes that nobody may touch
};

/// The largest difference over the largest value. Infinite where `values` is not finite.
template <class Value>
double max_error(const std::vector<Value>& values, const std::vector<double>& exact) {
  EXPECT_EQ(values.size(), exact.size());
  double difference = 0, scale = std::numeric_limits<double>::min();
  for (size_t i = 0; i < exact.size(); i++) {
    const double d = std::abs(values[i] - exact[i]);
    difference = std::isfinite(d) ? std::max(difference, d) : std::numeric_limits<double>::infinity();
    scale = std::max(scale, std::abs(exact[i]));
  }
  return difference / scale;
}

/// The distance from 1 to the next number of the type.
inline double epsilon_of(DType dtype) { return dtype == DType::f32 ? 0x1p-23 : dtype == DType::bf16 ? 0x1p-7 : 0x1p-10; }

/// The bound of every op: at most twice the error of plain fp32 loops whose result is rounded to the type it is stored in, and one epsilon
/// of that type.
inline void expect_as_exact_as_plain_code(const char* what, const std::vector<float>& ours, const std::vector<float>& plain,
                                          const std::vector<double>& exact, DType dtype = DType::f32) {
  EXPECT_LE(max_error(ours, exact), 2 * max_error(rounded_to(dtype, plain), exact) + epsilon_of(dtype)) << what << ' ' << name_of(dtype);
}

/// d loss / d values by central differences in fp64, where loss() reads `values`.
template <class Loss>
std::vector<double> central_differences(std::vector<double>& values, Loss loss, double step = 1e-5) {
  std::vector<double> gradient(values.size());
  for (size_t i = 0; i < values.size(); i++) {
    const double value = values[i];
    values[i] = value + step;
    const double above = loss();
    values[i] = value - step;
    gradient[i] = (above - loss()) / (2 * step);
    values[i] = value;
  }
  return gradient;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
  return sum;
}

/// Runs `call(device)` on cpu and null with a trace and expects the same one, with `ops` entries.
template <class Call>
void expect_same_trace_on_null(size_t ops, Call call) {
  TestDevice real = TestDevice::under_test(), null = TestDevice::null();
  Trace on_real, on_null;
  real.stream().set_trace(&on_real), call(real), real.stream().set_trace(nullptr);
  null.stream().set_trace(&on_null), call(null);
  EXPECT_EQ(on_real.size(), ops);
  EXPECT_TRUE(on_real == on_null);
}

}  // namespace tessera::op_test
