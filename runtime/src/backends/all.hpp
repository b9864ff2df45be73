// The backends, each in a file that the build may leave out.
#pragma once

#include "../backend.hpp"

namespace elir::core {

const Backend& tensorrt_backend();
const Backend& tensorrt_rtx_backend();
const Backend& onnxruntime_backend();
const Backend& openvino_backend();
const Backend& reference_backend();

}  // namespace elir::core
