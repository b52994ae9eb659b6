# What the module is made of: for a GPU, and for the emulation that tests it without one.
set(cuda_sources
  check.cpp cuda_device.cpp cuda_module.cpp cuda_ops.cpp cuda_queue.cpp
  loss.cu
  step_end.cu update_rules.cu)
list(TRANSFORM cuda_sources PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
