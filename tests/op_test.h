#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/device.h"

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

/// A device with an arena; tensors are copied in and out.
class TestDevice {
 public:
  explicit TestDevice(std::unique_ptr<Device> device, int64_t capacity_bytes = int64_t{1} << 30) : device_(std::move(device)) {
    ArenaSize size;
    size.permanent_bytes[static_cast<size_t>(MemorySpace::Device)] = capacity_bytes;
    device_->reserve(size);
  }
  static TestDevice cpu(int threads = 2) { return TestDevice(Device::cpu(threads)); }
  static TestDevice null() { return TestDevice(Device::null({.kind = DeviceKind::Cpu, .threads = 2})); }

  Device* operator->() { return device_.get(); }
  Stream& stream() { return device_->compute(); }

  /// Zeros.
  Tensor tensor(Shape shape, DType dtype = DType::f32) { return device_->arena().permanent(dtype, shape, MemoryCategory::Scratch); }
  Tensor tensor(Shape shape, const std::vector<float>& values) { return filled(tensor(shape), values); }
  Tensor tensor(Shape shape, const std::vector<int32_t>& values) { return filled(tensor(shape, DType::i32), values); }
  /// Columns [begin, end) of a wider matrix of zeros, filled with `values`: the form in which q, k and v reach an op.
  Tensor columns(Tensor matrix, int64_t begin, int64_t end, const std::vector<float>& values) {
    const Tensor view = matrix.column_range(begin, end);
    for (int64_t row = 0; row < view.rows(); row++) {
      device_->write(view.row_range(row, row + 1), values.data() + row * (end - begin), (end - begin) * 4);
    }
    return view;
  }
  /// Of a contiguous tensor or a range of a matrix' columns.
  std::vector<float> values(Tensor tensor) {
    std::vector<float> result(static_cast<size_t>(tensor.elements()));
    if (tensor.contiguous()) {
      device_->read(result.data(), tensor, tensor.bytes());
    } else {
      const int64_t width = tensor.columns();
      for (int64_t row = 0; row < tensor.rows(); row++) device_->read(&result[row * width], tensor.row_range(row, row + 1), width * 4);
    }
    return result;
  }

 private:
  template <class Value>
  Tensor filled(Tensor tensor, const std::vector<Value>& values) {
    device_->write(tensor, values.data(), static_cast<int64_t>(values.size() * sizeof(Value)));
    return tensor;
  }
  std::unique_ptr<Device> device_;
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

/// The bound of every op: at most twice the error of plain fp32 loops, and one epsilon.
inline void expect_as_exact_as_plain_code(const char* what, const std::vector<float>& ours, const std::vector<float>& plain,
                                          const std::vector<double>& exact) {
  EXPECT_LE(max_error(ours, exact), 2 * max_error(plain, exact) + std::numeric_limits<float>::epsilon()) << what;
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
  TestDevice cpu = TestDevice::cpu(), null = TestDevice::null();
  Trace on_cpu, on_null;
  cpu.stream().set_trace(&on_cpu), call(cpu);
  null.stream().set_trace(&on_null), call(null);
  EXPECT_EQ(on_cpu.size(), ops);
  EXPECT_TRUE(on_cpu == on_null);
}

}  // namespace tessera::op_test
