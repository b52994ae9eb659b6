#pragma once
// What a test may ask of the emulated device, in code or by the environment.
#include <cstddef>

namespace cuda_emulation {

enum class ThreadOrder { Forward, Reverse, Random };
enum class StreamMode { Eager, Lazy };
enum class RaceScope { Block, Grid };

/// Read from the environment once; tests change settings() or use ScopedSettings. Change nothing while work is enqueued.
struct Settings {
  ThreadOrder order =
      ThreadOrder::Forward;  // TESSERA_EMULATION_ORDER=forward|reverse|random:SEED   which ready CUDA thread runs next; blocks too
  unsigned seed = 1;
  StreamMode streams = StreamMode::Eager;  // TESSERA_EMULATION_STREAMS=eager|lazy      lazy: work runs only when somebody waits for it
  RaceScope races = RaceScope::Block;      // TESSERA_EMULATION_RACES=block|grid        grid: blocks of a grid are unordered, too
  bool protect_device_memory = false;      // TESSERA_EMULATION_PROTECT=1               the host faults when it touches device memory
  std::size_t device_bytes = std::size_t{8} << 30;
  int gpus = 1;  // TESSERA_EMULATION_GPUS=1 to 64     they share one memory
};
Settings& settings();

/// Settings as they were before come back at the end of the scope.
class ScopedSettings {
 public:
  explicit ScopedSettings(const Settings& during) : before_(settings()) { settings() = during; }
  ~ScopedSettings() { settings() = before_; }
  ScopedSettings(const ScopedSettings&) = delete;
  ScopedSettings& operator=(const ScopedSettings&) = delete;

 private:
  Settings before_;
};

/// Calls of a function of the runtime, or launches ("cudaLaunchKernelEx"), since the process began.
long calls_of(const char* function);

}  // namespace cuda_emulation
