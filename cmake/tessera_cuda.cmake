# CUDA, wherever nvcc is: TESSERA_CUDA=ON stops the configuration without it, OFF does not look. Included by the top directory, because
# enable_language belongs there.
set(TESSERA_CUDA AUTO CACHE STRING "libtessera_cuda.so: AUTO (where nvcc is found), ON, OFF")
set_property(CACHE TESSERA_CUDA PROPERTY STRINGS AUTO ON OFF)
set(TESSERA_HAS_CUDA OFF)
set(cuda_why_not "TESSERA_CUDA is OFF")

if(NOT TESSERA_CUDA STREQUAL "OFF")
  find_program(TESSERA_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  set(cuda_why_not "nvcc is not found")
  if(TESSERA_NVCC)
    set(CMAKE_CUDA_COMPILER ${TESSERA_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual")  # A100 and its relatives, H100 and H200, PTX for what comes after
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # CMake 3.25 does not know it
    enable_language(CUDA)
    find_package(CUDAToolkit QUIET)
    if(TARGET CUDA::cudart_static AND TARGET CUDA::cublasLt)
      set(TESSERA_HAS_CUDA ON)
    else()
      set(cuda_why_not "${TESSERA_NVCC} comes without cudart_static or cublasLt")
    endif()
  endif()
endif()

if(TESSERA_HAS_CUDA)
  list(JOIN CMAKE_CUDA_ARCHITECTURES " " cuda_targets)
  tessera_component(CUDA "${CMAKE_CUDA_COMPILER_VERSION}" "libtessera_cuda.so for ${cuda_targets}")
elseif(TESSERA_CUDA STREQUAL "ON")
  message(FATAL_ERROR "TESSERA_CUDA is ON, but ${cuda_why_not}. -DTESSERA_NVCC=FILE names a compiler")
else()
  tessera_component(CUDA "-" "${cuda_why_not}")
endif()
