#pragma once
// The emulated device's memory and pinned host memory: who owns which range. Fresh memory is full of NaN.
#include <cstddef>

namespace cuda_emulation {

/// Null when the device is full (settings().device_bytes).
void* take_device_memory(std::size_t bytes);
bool give_back_device_memory(void* memory);
std::size_t device_bytes_taken();

void* take_pinned_memory(std::size_t bytes);
bool give_back_pinned_memory(void* memory);
/// Memory of the caller's own, as by cudaHostRegister.
void register_pinned_memory(void* memory, std::size_t bytes);
bool unregister_pinned_memory(void* memory);

bool is_device_memory(const void* address);
bool is_pinned_memory(const void* address);
/// A fault unless [address, address + bytes) lies in one allocation of the device.
void expect_device_range(const char* what, const void* address, std::size_t bytes);
/// A fault when the range begins in pinned memory and leaves it, or lies on the device.
void expect_host_range(const char* what, const void* address, std::size_t bytes);

/// Under settings().protect_device_memory the host cannot touch device memory except between these two, as on a real GPU.
void open_device_memory();
void close_device_memory();

}  // namespace cuda_emulation
