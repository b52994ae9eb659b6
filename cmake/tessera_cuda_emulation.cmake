# The emulation of CUDA for tests (tests/cuda_emulation/) needs the toolkit's headers and Boost.Context: no nvcc, no GPU, no library of CUDA's.
# Without them it is not built, and the table says why.
set(cuda_roots ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_PATH} $ENV{CUDA_HOME} /usr/local/cuda)
find_path(cuda_headers cuda_runtime.h HINTS ${cuda_roots} PATH_SUFFIXES include targets/x86_64-linux/include NO_CACHE)
find_path(cublaslt_headers cublasLt.h HINTS ${cuda_headers} ${cuda_roots} PATH_SUFFIXES include targets/x86_64-linux/include NO_CACHE)
find_package(Boost 1.74 QUIET COMPONENTS context)

set(TESSERA_CUDA_EMULATION OFF)
if(NOT cuda_headers OR NOT cublaslt_headers)
  set(cuda_emulation_says "not built: no headers of CUDA and cuBLAS")
elseif(NOT Boost_CONTEXT_FOUND)
  set(cuda_emulation_says "not built: no Boost.Context (libboost-context-dev)")
else()
  set(TESSERA_CUDA_EMULATION ON)
  set(cuda_emulation_says "Boost ${Boost_VERSION_STRING}")
  add_library(tessera_cuda_headers INTERFACE)
  target_include_directories(tessera_cuda_headers SYSTEM INTERFACE ${cuda_headers} ${cublaslt_headers})
endif()
tessera_component("CUDA emulation" "${cuda_emulation_says}" "CUDA kernels in tests, without a GPU")
