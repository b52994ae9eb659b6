#include "tests/cuda_emulation/settings.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace cuda_emulation {
namespace {

[[noreturn]] void refuse(const char* name, const std::string& value, const char* legal) {
  std::fprintf(stderr, "error: %s = %s\n  legal: %s\n", name, value.c_str(), legal);
  std::_Exit(2);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Settings from_environment() {
  Settings s;
  const std::string order = variable("TESSERA_EMULATION_ORDER");
  if (order == "reverse") {
    s.order = ThreadOrder::Reverse;
  } else if (order.starts_with("random:")) {
    s.order = ThreadOrder::Random;
    s.seed = static_cast<unsigned>(std::strtoul(order.c_str() + 7, nullptr, 10));
  } else if (!order.empty() && order != "forward") {
    refuse("TESSERA_EMULATION_ORDER", order, "forward, reverse, random:SEED");
  }
  const std::string streams = variable("TESSERA_EMULATION_STREAMS");
  if (streams == "lazy") s.streams = StreamMode::Lazy;
  if (!streams.empty() && streams != "lazy" && streams != "eager") refuse("TESSERA_EMULATION_STREAMS", streams, "eager, lazy");
  const std::string races = variable("TESSERA_EMULATION_RACES");
  if (races == "grid") s.races = RaceScope::Grid;
  if (!races.empty() && races != "grid" && races != "block") refuse("TESSERA_EMULATION_RACES", races, "block, grid");
  s.protect_device_memory = variable("TESSERA_EMULATION_PROTECT") == "1";
  if (const std::string gpus = variable("TESSERA_EMULATION_GPUS"); !gpus.empty()) {
    s.gpus = std::atoi(gpus.c_str());
    if (s.gpus < 1 || s.gpus > 64) refuse("TESSERA_EMULATION_GPUS", gpus, "1 to 64");
  }
  return s;
}

}  // namespace

Settings& settings() {
  static Settings instance = from_environment();
  return instance;
}

}  // namespace cuda_emulation
