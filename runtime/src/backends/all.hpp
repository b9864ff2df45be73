// The backends of each library, each made by a file of its own that the build may leave out.
#pragma once

#include <memory>
#include <vector>

#include "../backend.hpp"

namespace elir::core {

using Backends = std::vector<std::unique_ptr<const Backend>>;

Backends make_tensorrt_backends();
Backends make_tensorrt_rtx_backends();
Backends make_onnxruntime_backends();
Backends make_openvino_backends();
Backends make_reference_backends();

}  // namespace elir::core
