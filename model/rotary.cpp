// T tokens of a sequence   D head width
#include "model/rotary.h"

#include <cmath>
#include <vector>

namespace tessera {

Tensor make_rotary_table(const ModelSpec& spec, int64_t T, Device& device) {
  if (!spec.is_llama()) return {};
  const int64_t D = spec.head_dim, pairs = D / 2;
  const Tensor table = device.arena().permanent(DType::f32, {T, D}, MemoryCategory::Data);
  if (device.is_null()) return table;
  std::vector<float> values(static_cast<size_t>(T * D));
  for (int64_t t = 0; t < T; t++) {
    for (int64_t i = 0; i < pairs; i++) {
      const double angle = static_cast<double>(t) * std::pow(spec.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
      values[t * D + i] = static_cast<float>(std::cos(angle));
      values[t * D + pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
  device.write(table, values.data(), table.bytes());
  return table;
}

}  // namespace tessera
