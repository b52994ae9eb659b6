#pragma once
#include <string>

namespace tessera::cuda {

/// libcudnn.so.9, opened at the first question and never closed, for whoever calls cuDNN's functions by their names (cudnn_library.cpp has those
/// that cudnn-frontend calls). TESSERA_CUDNN names another file. Empty: it is there; else why not.
const std::string& why_no_cudnn();

}  // namespace tessera::cuda
