# What the module is made of: for a GPU, and for the emulation that tests it without one.
set(cuda_sources
  check.cpp cuda_device.cpp cuda_module.cpp cuda_queue.cpp
  activations.cu elementwise.cu elementwise_ops.cpp embedding.cu rotary.cu
  attention.cu attention_bf16.cu attention_fp16.cu attention_fp32.cu
  blas_matmul.cpp matmul.cpp matmul_loops.cu
  loss.cu
  norm_backward_input.cu norm_backward_weight.cu norm_forward.cu norm_ops.cpp
  step_end.cu update_rules.cu)
list(TRANSFORM cuda_sources PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
# The communicator of ranks that have a GPU each: parallel/ knows of it only what parallel/nccl_module.h says.
foreach(source nccl_comm.cpp nccl_library.cpp nccl_link.cpp)
  list(APPEND cuda_sources ${CMAKE_CURRENT_LIST_DIR}/../../parallel/nccl/${source})
endforeach()
