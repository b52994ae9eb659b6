#pragma once
#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/safetensors.h"
#include "tests/tiny_run.h"

namespace tessera {

/// A file that golden/make_golden.py wrote; its tokens are the samples of the run.
class Golden : public BatchSource {
 public:
  explicit Golden(const std::string& name) : file_(std::string(TESSERA_TESTS_DIR) + "/golden/" + name + ".safetensors") {
    if (file_.find("tokens")->dtype == "U8") {
      const auto bytes = values<uint8_t>("tokens", "U8");
      tokens_.assign(bytes.begin(), bytes.end());
    } else {
      tokens_ = values<int32_t>("tokens", "I32");
    }
  }

  std::vector<float> weight(const std::string& name) const { return values<float>("weight/" + name, "F32"); }
  std::vector<float> gradient(const std::string& name) const { return values<float>("gradient/" + name, "F32"); }
  std::vector<double> losses(const std::string& name = "losses") const { return values<double>(name, "F64"); }
  std::vector<double> norms() const { return values<double>("norms", "F64"); }
  std::vector<std::string> gradient_names() const {
    std::vector<std::string> names;
    for (const SafetensorsTensor& tensor : file_.tensors()) {
      if (tensor.name.starts_with("gradient/")) names.push_back(tensor.name.substr(9));
    }
    return names;
  }
  void sample(int64_t i, std::span<int32_t> tokens) const override {
    std::copy_n(tokens_.begin() + i * static_cast<int64_t>(tokens.size()), tokens.size(), tokens.begin());
  }

  /// Gives `trainer` the weights of the file instead of its own initial ones.
  void start(Trainer& trainer) const {
    trainer.initialize();
    trainer.params().assign([this](const std::string& name) { return weight(name); }, trainer.device());
  }

 private:
  template <class Value>
  std::vector<Value> values(const std::string& name, const std::string& dtype) const {
    const SafetensorsTensor* tensor = file_.find(name);
    if (tensor == nullptr || tensor->dtype != dtype) throw std::runtime_error("the golden file has no " + name + " of type " + dtype);
    std::vector<Value> all(static_cast<size_t>(tensor->bytes()) / sizeof(Value));
    file_.read(*tensor, 0, std::as_writable_bytes(std::span(all)));
    return all;
  }

  SafetensorsFile file_;
  std::vector<int32_t> tokens_;  // [steps x batch, T + 1]
};

}  // namespace tessera
